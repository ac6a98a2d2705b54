"""Holds a model's packed forward against the model's own code, before anything is served.

Whether an architecture can run packed is not told by its name: layers may keep a state of their
own, masks may have other shapes, positions may be counted elsewhere. All of it shows in the logits
of two texts that are fed as a server feeds them: side by side, in pieces, in blocks that are
scattered and used already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cold_backend.adapters.adapter import Adapter
from cold_backend.contract import NONE, ROW, Int32Array, Table, blocks_for
from cold_backend.errors import ConfigError
from cold_backend.models.batch import Batch
from cold_backend.models.kv_cache import KVCache
from cold_backend.models.language_model import Network
from cold_backend.models.lora import AdapterSet
from cold_backend.models.own_forward import (
    adapters_to_try,
    has_experts,
    own_attention,
    own_logits,
    texts,
)
from cold_backend.refusal import UnsupportedError

# How far logits may be apart, relative to their spread, through rounding alone: several times what
# thirty layers come to. Another mask or a state that is lost moves them by about their spread.
_ROUNDING = {torch.float32: 1e-3, torch.float16: 0.06, torch.bfloat16: 0.25}
_WORST = 3


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens of a text that one forward feeds, into the blocks of one of the texts."""

    text: int
    blocks_of: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Trial:
    """An adapter for the second text, and the model's own logits for it, [n, V]."""

    index: int
    adapter: Adapter | None
    logits: Tensor


class Comparison:
    """What the model's own code says of two texts, the second with each kind of adapter.

    Args:
        model: from `load_model`, before its weights are given away.
        adapters: of the model.
        context: tokens of a sequence.
        seed: of the texts.

    Raises:
        ConfigError: the model's logits are no numbers.
    """

    def __init__(self, model: nn.Module, adapters: AdapterSet, context: int, seed: int = 0) -> None:
        self._name = type(model).__name__
        self._texts = texts(model, context, seed)
        self._room = len(adapters.fixed)
        with torch.inference_mode(), own_attention(model):
            self._logits = own_logits(model, self._texts[0], None)
            self._trials = [
                _Trial(index, adapter, own_logits(model, self._texts[1], adapter))
                for index, adapter in adapters_to_try(model, adapters)
            ]
            self._exact = self._logits.dtype is torch.float32
            self._rounding = self._measure_rounding(model)
        if not all(bool(own.isfinite().all()) for own in (self._logits, *self._adapted())):
            raise ConfigError(f"base_model: {self._name} gives logits that are not finite")

    @torch.inference_mode()
    def check(self, network: Network) -> None:
        """Feeds the texts to the packed forward.

        Mutates: the network's adapters while it runs.

        Raises:
            ConfigError: it differs from the model's own.
        """
        for trial in self._trials:
            given = trial.adapter is not None and trial.index >= self._room
            if trial.adapter is not None and given:
                _put(network, trial.index, trial.adapter)
            self._try(network, trial)
            if given:
                _put(network, trial.index, Adapter("", {}, {}))

    def _try(self, network: Network, trial: _Trial) -> None:
        own = self._logits, trial.logits
        lengths = len(self._texts[0]), len(self._texts[1])
        tables = _tables(*map(blocks_for, lengths))
        cache = KVCache(sum(map(len, tables)))
        errors: dict[_Piece, float] = {}
        for pieces in _schedule(*lengths):
            rows = _rows(pieces, trial.index)
            tokens = np.concatenate([self._texts[p.text][p.start : p.end] for p in pieces])
            blocks = np.concatenate([tables[p.blocks_of][: blocks_for(p.end)] for p in pieces])
            packed = network.forward(Batch.of(tokens, rows, blocks, network.device), cache)
            for piece, logits in zip(pieces, packed, strict=True):
                errors[piece] = _difference(logits, own[piece.text][piece.end - 1])
        if not cache.bytes:
            raise UnsupportedError("it does not use transformers' attention interface")
        for text, of in enumerate(("", " with an adapter" if trial.adapter else "")):
            self._judge({piece: e for piece, e in errors.items() if piece.text == text}, of)

    def _judge(self, errors: dict[_Piece, float], of: str) -> None:
        worst = max(errors, key=lambda piece: errors[piece])
        if self._exact:
            agrees = errors[worst] <= self._rounding
        else:  # where rounding adds up, one may be further away than most
            usual = float(np.median([*errors.values()]))
            agrees = usual <= self._rounding and errors[worst] <= _WORST * self._rounding
        if not agrees:
            raise ConfigError(
                f"base_model: {self._name} is not supported: its logits{of} for token {worst.end} "
                f"of a text that is fed in pieces, beside another, are {errors[worst]:.1%} away "
                "from those that transformers gives"
            )

    def _measure_rounding(self, model: nn.Module) -> float:
        """What the model's own code makes of it to have fewer tokens in a forward."""
        floor = _ROUNDING.get(self._logits.dtype, 1e-3)
        if self._exact:
            return floor if self._logits.device.type == "cpu" else 10 * floor
        half = len(self._texts[0]) // 2
        fewer = own_logits(model, self._texts[0][:half], None)
        return max(floor, 4 * _difference(fewer[-1], self._logits[half - 1]))

    def _adapted(self) -> Iterator[Tensor]:
        return (trial.logits for trial in self._trials)


def compare(model: nn.Module, adapters: AdapterSet, context: int) -> Callable[[Network], None]:
    """Has the model's own code answer; what is returned then checks the packed forward.

    Where a router chooses experts, rounding alone may turn a close choice: such a model is refused
    if it differs for two pairs of texts.

    Raises:
        ConfigError: as `Comparison`, and `Comparison.check`.
    """
    first, *others = [
        Comparison(model, adapters, context, seed) for seed in range(1 + has_experts(model))
    ]

    def check(network: Network) -> None:
        try:
            first.check(network)
        except ConfigError:
            if not others:
                raise
            others[0].check(network)

    return check


def _difference(packed: Tensor, own: Tensor) -> float:
    """Root of the mean square, relative to that of the model's own logits around their mean."""
    difference = (packed.float() - own.float()).square().mean().sqrt()
    spread = (own.float() - own.float().mean()).square().mean().sqrt()
    return float(difference / spread.clamp_min(1e-9))


def _schedule(long: int, short: int) -> Iterator[list[_Piece]]:
    """Both texts in turns, many tokens beside single ones; then each in the other's blocks."""
    middle = long // 2
    steps = [
        ([0, 1], [(0, 0, middle), (1, 0, 3)]),
        ([0, 1], [(1, 3, short - 1), (0, middle, middle + 1)]),
        ([0, 1], [(0, middle + 1, long), (1, short - 1, short)]),
        ([1, 0], [(0, 0, 5), (1, 0, 5)]),
    ]
    lengths = long, short
    for blocks_of, cuts in steps:
        cut = [_Piece(t, blocks_of[t], max(0, a), min(b, lengths[t])) for t, a, b in cuts]
        if pieces := [piece for piece in cut if piece.start < piece.end]:
            yield pieces


def _tables(long: int, short: int) -> tuple[Int32Array, Int32Array]:
    """The blocks of both texts, which have so many: among each other, none before the next."""
    falling = np.arange(long + short, dtype=np.int32)[::-1]
    of_short = np.isin(falling, 2 * np.arange(short) + 1)
    return falling[~of_short], falling[of_short]


def _put(network: Network, index: int, adapter: Adapter) -> None:
    for _ in network.put_adapter(index, adapter):
        pass


def _rows(pieces: list[_Piece], adapter: int) -> Table:
    rows = np.zeros(len(pieces), ROW)
    rows["start"] = [piece.start for piece in pieces]
    rows["length"] = [piece.end - piece.start for piece in pieces]
    rows["adapters"] = NONE
    rows["adapters"][:, 0] = [adapter if piece.text else NONE for piece in pieces]
    rows["strengths"], rows["emits"] = 1, 1
    return rows
