"""What offline compilers are given: every kernel, for every dtype and a device's cuts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cold_kernels.device import Tuning
from cold_kernels.triton_lang.contrast import cold_pick, cold_tile_stats
from cold_kernels.triton_lang.lora import (
    cold_lora_expand,
    cold_lora_expand_tiles,
    cold_lora_shrink,
    cold_lora_shrink_tiles,
)

DTYPES = ("fp16", "bf16", "fp32")
# Tiles that the largest vocabulary of today (256 thousand tokens) is cut into, at most.
_MOST_TILES = 256


@dataclass(frozen=True)
class Case:
    """A kernel and what is fixed when it is compiled.

    Attributes:
        kernel: the jitted function.
        dtype: of logits, activations and weights.
        signature: type of every other argument, in order; `T` stands for the dtype.
        sizes: the arguments in capitals.
    """

    kernel: Any
    dtype: str
    signature: dict[str, str]
    sizes: dict[str, Any]

    @property
    def name(self) -> str:
        """Unique among the cases."""
        sizes = "_".join(f"{key.lower()}{int(value)}" for key, value in self.sizes.items())
        return f"{self.kernel.__name__}_{self.dtype}_{sizes}"


def cases(tuning: Tuning) -> Iterator[Case]:
    """Every kernel, for every dtype and what the launcher chooses among for a device."""
    for dtype in DTYPES:
        for kernel, types, sizes in _kernels(tuning):
            names = (name for name in kernel.arg_names if name not in sizes)
            signature = {
                name: kind.replace("T", dtype)
                for name, kind in zip(names, types.split(), strict=True)
            }
            yield Case(kernel, dtype, signature, sizes)


def _kernels(tuning: Tuning) -> Iterator[tuple[Any, str, dict[str, Any]]]:
    """Each kernel, its arguments' types, its sizes."""
    tile = {"TILE": tuning.tile}
    tiles = {**tile, "TILES": _MOST_TILES}
    floats, longs = " *fp32", " *i64"
    selection = longs + 3 * floats + " *i32" + longs
    yield cold_tile_stats, "*T *T *i32" + 2 * floats + 3 * " i32", tile
    pick = "*T *T *i32" + 3 * floats + " *i32" + 2 * floats + selection + 3 * " i32"
    for samples in (True, False):
        yield cold_pick, pick, {"SAMPLES": samples, **tiles}
    adapters = "*fp32 *i32 *i32 *fp32"
    one = {"RANKS": tuning.ranks, "INPUTS": tuning.inputs}
    yield cold_lora_shrink, "*T *T *i32 *i32 *fp32 i32 i32 i32", one
    expand = f"*T *fp32 *T {adapters} i32 i32 i32 i32"
    yield cold_lora_expand, expand, {"OUTPUTS": tuning.outputs}
    for ranks in (16, 32, 64, 128):
        many = {"TOKENS": tuning.tokens, "RANKS": ranks}
        yield (
            cold_lora_shrink_tiles,
            "*T *T *i32 *fp32 i32 i32 i32",
            {**many, "INPUTS": tuning.tile_inputs, "WIDENS": tuning.widens},
        )
        yield cold_lora_expand_tiles, expand, {**many, "OUTPUTS": tuning.tile_outputs}
