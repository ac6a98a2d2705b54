"""One language model: a step's tokens in, logits of its emitting rows out.

All tokens of a step, from prompts and running sequences alike, are one packed forward without
padding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cold_backend.adapters.adapter import Adapter
from cold_backend.adapters.store import AdapterStore
from cold_backend.contract import (
    NONE,
    ROW,
    BytesArray,
    Int32Array,
    Int64Array,
    Reader,
    Table,
    pack_reports,
    unpack_changes,
)
from cold_backend.models.adapter_loads import AdapterLoads
from cold_backend.models.batch import Batch, block_counts
from cold_backend.models.kv_cache import KVCache

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
    """A network, the KV cache of its contexts, and the readers whose rows it runs.

    With several readers, the rows of all of them are one forward: expert and base share every read
    of the weights. Their contexts share one pool of blocks.

    Args:
        network: the base model, with adapters or without.
        readers: whose rows of a step this model runs.
        blocks: how many the KV cache shall have, of so many bytes each.
        store: has adapters that are put in while the model runs; None if none are.

    Attributes:
        blocks: that the KV cache has.
        bytes: of its memory.
    """

    def __init__(
        self,
        network: Network,
        readers: tuple[Reader, ...],
        *,
        blocks: Callable[[int], int],
        store: AdapterStore | None = None,
    ) -> None:
        self._network = network
        self._store = store
        self._loads = AdapterLoads(network.put_adapter, store)
        self._stepped_s = time.monotonic()
        self._readers = readers
        self.blocks = blocks(self._warm_up(KVCache(1)))
        self._cache = KVCache(self.blocks)
        self.bytes = self._warm_up(self._cache)

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
    def copy_blocks(self, copies: Table) -> None:
        """Copies what `Step.copies` names, for the readers whose rows this model runs.

        Mutates: the KV cache.
        """
        mine = copies[np.isin(copies["reader"], self._readers)]
        if len(mine):
            self._cache.copy(mine["source"].tolist(), mine["target"].tolist())

    @torch.inference_mode()
    def forward(self, tokens: Int64Array, rows: Table, blocks: Int32Array) -> Tensor:
        """Runs the rows of this model's readers.

        Args:
            tokens: [T], as in `Step`.
            rows: [R] of ROW, as in `Step`.
            blocks: [B], as in `Step`.

        Returns:
            [E', V] logits after the last token of each of these rows that emits, in their order.

        Mutates: the KV cache.
        """
        mine = np.isin(rows["reader"], self._readers)
        if not mine.all():
            tokens = tokens[np.repeat(mine, rows["length"])]
            blocks = blocks[np.repeat(mine, block_counts(rows))]
            rows = rows[mine]
        if not len(tokens):
            return torch.empty((0, self._network.vocab_size), device=self._network.device)
        batch = Batch.of(tokens, rows, blocks, self._network.device)
        return self._network.forward(batch, self._cache)

    @torch.inference_mode()
    def _warm_up(self, cache: KVCache) -> int:
        """Runs one token, which takes the cache's memory; returns how many bytes it is."""
        row = np.zeros(1, ROW)
        row["length"], row["adapters"] = 1, NONE
        tokens, blocks = np.zeros(1, np.int64), np.zeros(1, np.int32)
        self._network.forward(Batch.of(tokens, row, blocks, self._network.device), cache)
        return cache.bytes
