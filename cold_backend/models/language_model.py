"""One language model: a step's tokens in, logits of its emitting rows out.

All tokens of a step, from prompts and running sequences alike, are one packed forward without
padding.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cold_backend.adapters.adapter import Adapter
from cold_backend.adapters.store import AdapterStore
from cold_backend.contract import (
    BytesArray,
    Copy,
    Int32Array,
    Int64Array,
    Reads,
    Row,
    emitting,
    pack_reports,
    reading,
    unpack_changes,
)
from cold_backend.models.adapter_loads import AdapterLoads
from cold_backend.models.batch import Batch
from cold_backend.models.kv_cache import KVCache

_log = logging.getLogger(__name__)

_SHARE = 0.05  # of a step's time, for adapters that are put in beside it
_PATIENCE_S = 0.02  # how long a step takes that is there for adapters alone


class Network(Protocol):
    """A model's forward over packed rows."""

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """[E, V] logits after the batch's `last` tokens. Mutates: the KV cache."""
        ...

    def put_adapter(self, index: int, adapter: Adapter) -> Iterator[None]:
        """Puts an adapter where there is room for one, see `AdapterSet`, piece by piece.

        The index must not be used before all of them are done.
        """
        ...


class LanguageModel:
    """A network, the KV cache of its sequences, and the readers that it runs rows for.

    With several readers, a row goes through the same forward once for each that it has, in a slot
    of its own: expert and base rows share every read of the weights.

    Args:
        network: the base model, with adapters or without.
        readers: which rows of a step this model runs; the base's have no adapter.
        slots: sequences that the KV cache holds, of each reader.
        context: tokens per sequence.
        store: has adapters that are put in while the model runs; None if none are.
    """

    def __init__(
        self,
        network: Network,
        readers: tuple[Reads, ...],
        *,
        slots: int,
        context: int,
        store: AdapterStore | None = None,
    ) -> None:
        self._network = network
        self._store = store
        self._loads = AdapterLoads(network.put_adapter, store)
        self._stepped_s = time.monotonic()
        self._readers = readers
        self._slots = slots
        self.cache = KVCache(slots * len(readers), context)
        self._warm_up()

    @torch.inference_mode()
    def load_adapters(self, changes: BytesArray, *, alone: bool = False) -> BytesArray:
        """Begins to load what `Step.adapters` names, and goes on with what was named before.

        Args:
            changes: `Step.adapters`.
            alone: the step has no rows, so that there is time for it.

        Returns:
            `StepResult.loads`: an adapter that cannot be loaded is no error here.

        Mutates: the network.
        """
        now_s = time.monotonic()
        step_s, self._stepped_s = now_s - self._stepped_s, now_s
        if self._store and not alone:
            self._store.pace.step()
        self._loads.announce(unpack_changes(changes))
        budget_s = min(_SHARE * step_s, _PATIENCE_S)
        reports = (
            self._loads.advance(_PATIENCE_S, patience_s=_PATIENCE_S)
            if alone
            else self._loads.advance(budget_s)
        )
        return pack_reports(reports)

    @torch.inference_mode()
    def copy_slots(self, copies: Int32Array) -> None:
        """Copies what `Step.copies` names, for the readers that this model runs.

        Mutates: the KV cache.
        """
        for place, reader in enumerate(self._readers):
            shift = place * self._slots
            for copy in copies[(copies[:, Copy.READS] & reader) != 0].tolist():
                source, target = copy[Copy.FROM] + shift, copy[Copy.TO] + shift
                self.cache.copy(source, target, copy[Copy.START], copy[Copy.END])

    @torch.inference_mode()
    def forward(self, tokens: Int64Array, rows: Int32Array) -> tuple[Tensor, ...]:
        """Runs the rows that this model reads.

        Args:
            tokens: [T], as in `Step`.
            rows: [R, len(Row)], as in `Step`.

        Returns:
            For each reader [E', V] logits after the last token of each row that emits and has it.

        Mutates: the KV cache.
        """
        of_readers = [self._rows_of(place, rows) for place in range(len(self._readers))]
        lengths = rows[:, Row.LENGTH]
        batch = Batch.of(
            np.concatenate([tokens[np.repeat(mine, lengths)] for mine, _ in of_readers]),
            np.concatenate([theirs for _, theirs in of_readers]),
            self._network.device,
        )
        if len(batch.tokens):
            logits = self._network.forward(batch, self.cache)
        else:
            logits = torch.empty((0, self._network.vocab_size))
        return logits.split([int(emitting(theirs).sum()) for _, theirs in of_readers])

    def _rows_of(self, place: int, rows: Int32Array) -> tuple[npt.NDArray[np.bool_], Int32Array]:
        """Which rows the reader at a place has, [R] booleans, and they as its slots see them."""
        reader = self._readers[place]
        mine = reading(rows, reader)
        theirs = rows[mine]
        theirs[:, Row.SLOT] += place * self._slots
        if reader is Reads.BASE:
            theirs[:, Row.ADAPTER] = -1
        return mine, theirs

    def _warm_up(self) -> None:
        """Runs one token, which takes the KV cache's memory."""
        row = dict.fromkeys(Row, 0) | {
            Row.LENGTH: 1,
            Row.ADAPTER: -1,
            Row.READS: int(self._readers[0]),
        }
        self.forward(np.zeros(1, np.int64), np.array([[row[column] for column in Row]], np.int32))
        _log.info("%s: %d MB of KV cache", type(self._network).__name__, self.cache.bytes // 10**6)
