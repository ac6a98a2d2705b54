"""Runs the kernels on tensors, and registers the ops. Contracts: `cold_kernels.ops`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from cold_kernels import choice_torch, contrast_torch, layer_torch
from cold_kernels.device import Tuning, tuning_of
from cold_kernels.ops import Selection, define, empty_selection
from cold_kernels.packing import PLAIN
from cold_kernels.triton_lang.contrast import cold_pick, cold_tile_stats
from cold_kernels.triton_lang.lora import (
    cold_lora_expand,
    cold_lora_expand_tiles,
    cold_lora_shrink,
    cold_lora_shrink_tiles,
)

NAMESPACE = "cold_triton_lang"
PACKING = PLAIN

# From so many tokens on, neighbours share an adapter often enough for matrix products to pay.
_MANY_TOKENS = 64
# Matrix products hold all ranks at once; more than these do not fit an Ascend's buffer.
_MOST_RANKS = 128


def contrast_select(
    expert: Tensor,
    base: Tensor,
    *,
    mode: Tensor,
    alpha: Tensor,
    beta: Tensor,
    temperature: Tensor,
    key: Tensor | None,
) -> Selection:
    """See `ops.ContrastSelect`."""
    tuning = tuning_of(expert.device)
    expert, base = expert.contiguous(), base.contiguous()
    settings = _packed(mode, alpha, beta, temperature)
    stats = _tile_stats(expert, base, settings[0], tuning)
    return _pick(expert, base, settings, key, stats, tuning)


def lora_apply(
    y: Tensor,
    x: Tensor,
    *,
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    rank: Tensor,
    index: Tensor,
    strength: Tensor,
) -> None:
    """See `ops.LoraApply`."""
    if y.stride(-1) != 1:
        rows = y.contiguous()
        lora_apply(rows, x, a=a, b=b, scale=scale, rank=rank, index=index, strength=strength)
        y.copy_(rows)
        return
    tuning = tuning_of(y.device)
    x, a, b = x.contiguous(), a.contiguous(), b.contiguous()
    scale, rank, index, strength = _packed(scale, rank, index, strength)
    shrunk = torch.empty((len(x), b.shape[1]), dtype=torch.float32, device=x.device)
    for of_tokens, strengths in zip(index, strength, strict=True):
        _add_adapters(y, x, shrunk, a, b, scale, rank, of_tokens, strengths, tuning)


def _add_adapters(
    y: Tensor,
    x: Tensor,
    shrunk: Tensor,
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    rank: Tensor,
    index: Tensor,
    strength: Tensor,
    tuning: Tuning,
) -> None:
    """Adds one adapter [T] of each token; all but y packed. Mutates: y, shrunk."""
    tokens, inputs = x.shape
    ranks, outputs = b.shape[1:]
    if tokens < _MANY_TOKENS or ranks > _MOST_RANKS:
        _run(
            cold_lora_shrink, tokens * -(-ranks // tuning.ranks), tuning.vector_cores,
            x, a, rank, index, shrunk, tokens, ranks, inputs,
            RANKS=tuning.ranks, INPUTS=tuning.inputs,
        )  # fmt: skip
        _run(
            cold_lora_expand, tokens * -(-outputs // tuning.outputs), tuning.vector_cores,
            y, shrunk, b, scale, rank, index, strength, tokens, ranks, outputs, y.stride(0),
            OUTPUTS=tuning.outputs,
        )  # fmt: skip
        return
    size = tuning.tokens
    all_ranks = max(16, _power_of_two(ranks))  # the least that a matrix product takes
    _run(
        cold_lora_shrink_tiles, -(-tokens // size), tuning.cube_cores,
        x, a, index, shrunk, tokens, ranks, inputs,
        TOKENS=size, RANKS=all_ranks, INPUTS=tuning.tile_inputs, WIDENS=tuning.widens,
    )  # fmt: skip
    _run(
        cold_lora_expand_tiles,
        -(-tokens // size) * -(-outputs // tuning.tile_outputs),
        tuning.cube_cores,
        y, shrunk, b, scale, rank, index, strength, tokens, ranks, outputs, y.stride(0),
        TOKENS=size, RANKS=all_ranks, OUTPUTS=tuning.tile_outputs,
    )  # fmt: skip


def _packed(*settings: Tensor) -> tuple[Tensor, ...]:
    """Settings of rows or tokens one after another: an expanded scalar, say, is not."""
    return tuple(setting.contiguous() for setting in settings)


def _tile_stats(expert: Tensor, base: Tensor, mode: Tensor, tuning: Tuning) -> Tensor:
    """[2, 2, R, S]: maxima and sums, of expert and base."""
    rows, vocab = expert.shape
    tiles = -(-vocab // tuning.tile)
    stats = torch.empty((2, 2, rows, tiles), dtype=torch.float32, device=expert.device)
    _run(
        cold_tile_stats, rows * tiles, tuning.vector_cores,
        expert, base, mode, stats[0], stats[1], rows, vocab, tiles,
        TILE=tuning.tile,
    )  # fmt: skip
    return stats


def _pick(
    expert: Tensor,
    base: Tensor,
    settings: tuple[Tensor, ...],
    key: Tensor | None,
    stats: Tensor,
    tuning: Tuning,
) -> Selection:
    rows, vocab = expert.shape
    tiles = stats.shape[-1]
    selection = empty_selection(expert)
    # A pointer must be given even where none is read.
    read = settings[0] if key is None else key.contiguous()
    _run(
        cold_pick, rows, tuning.vector_cores,
        expert, base, *settings, read, stats[0], stats[1], *selection, rows, vocab, tiles,
        SAMPLES=key is not None, TILE=tuning.tile, TILES=_power_of_two(tiles), **tuning.options,
    )  # fmt: skip
    return selection


def _run(kernel: Any, items: int, cores: int, *arguments: Any, **sizes: Any) -> None:
    if items:
        with _current(arguments[0].device):
            start(kernel, min(items, cores), arguments, sizes)


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Makes a device the current one, which is where kernels start whatever tensors they get."""
    if device.type == "cpu":
        return contextlib.nullcontext()
    return torch.get_device_module(device).device(device)


def start(kernel: Any, programs: int, arguments: tuple[Any, ...], sizes: dict[str, Any]) -> None:
    """Starts a kernel's programs, which take its items in turn."""
    kernel[(programs,)](*arguments, **sizes)


def _power_of_two(n: int) -> int:
    """The least one that is not below n."""
    return 1 << max(0, n - 1).bit_length()


LIBRARY = define(NAMESPACE)
_OPS: dict[str, Callable[..., Any]] = {
    "contrast_select": contrast_select,
    "lora_apply": lora_apply,
}
for _name, _op in _OPS.items():
    LIBRARY.impl(_name, _op, "CompositeExplicitAutograd")
contrast_torch.implement(LIBRARY)
choice_torch.implement(LIBRARY)
layer_torch.implement(LIBRARY, lora_apply)
