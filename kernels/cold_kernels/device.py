"""Devices by name: the only module that imports torch_npu."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch


class DeviceError(RuntimeError):
    """The device asked for is not there."""


def choose_device(name: str, index: int = 0) -> torch.device:
    """The device to run on.

    Args:
        name: `cpu`, `cuda`, `npu`, or `auto`: an NPU if there is one, else a GPU, else the CPU.
        index: which of several; counted modulo the number of devices there are.

    Raises:
        DeviceError: no such device on this machine.
    """
    if name == "auto":
        name = next((kind for kind in ("npu", "cuda") if _count(kind)), "cpu")
    if name == "cpu":
        return torch.device("cpu")
    count = _count(name)
    if not count:
        raise DeviceError(f"device: no {name} device on this machine")
    return torch.device(name, index % count)


def _count(kind: str) -> int:
    if kind == "cuda":
        return torch.cuda.device_count()
    return _npu_count()


def _npu_count() -> int:
    # Without CANN's libraries the import itself fails, with whatever error their loader raises.
    if importlib.util.find_spec("torch_npu") is None:
        return 0
    try:
        import torch_npu
    except (ImportError, RuntimeError, OSError):
        return 0
    return int(torch_npu.npu.device_count())


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the triton-lang kernels are cut for a device.

    Attributes:
        vector_cores: programs of a kernel that multiplies no matrices.
        cube_cores: programs of one that does.
        tile: tokens of the vocabulary at a time.
        ranks, inputs, outputs: of an adapter at a time, for one token.
        tokens, tile_inputs, tile_outputs: of an adapter's matrix products at a time.
        widens: matrix products take their 16-bit factors as float32.
        options: of the compiler.
    """

    vector_cores: int
    cube_cores: int
    tile: int
    ranks: int = 16
    inputs: int = 256
    outputs: int = 1024
    tokens: int = 16
    tile_inputs: int = 128
    tile_outputs: int = 128
    widens: bool = False
    options: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AscendChip:
    """What an Ascend SKU offers.

    Attributes:
        cube_cores: matrix units.
        vector_cores: vector units.
        buffer_bytes: unified buffer of a vector unit.
    """

    cube_cores: int
    vector_cores: int
    buffer_bytes: int


# hicann/runtime, Ascend910B*.ini.
ASCEND_CHIPS = {
    "Ascend910B1": AscendChip(24, 48, 192 << 10),
    "Ascend910B2": AscendChip(24, 48, 192 << 10),
    "Ascend910B3": AscendChip(20, 40, 192 << 10),
    "Ascend910B4": AscendChip(20, 40, 192 << 10),
}

# Bytes of the unified buffer that contrast_select takes per token of a tile: two logits, the noise,
# the ids, the score and the masks, twice for loading while computing. Checked by `ascend-check`.
_TILE_BYTES_PER_TOKEN = 48


def ascend_tuning(chip: AscendChip) -> Tuning:
    """Cuts that fit an Ascend chip's buffer."""
    tokens = chip.buffer_bytes // _TILE_BYTES_PER_TOKEN
    return Tuning(
        vector_cores=chip.vector_cores,
        cube_cores=chip.cube_cores,
        tile=1 << (tokens.bit_length() - 1),
    )


@functools.cache
def tuning_of(device: torch.device) -> Tuning:
    """The cuts for a device."""
    if device.type == "npu":
        import torch_npu

        return ascend_tuning(ASCEND_CHIPS[torch_npu.npu.get_device_name(device)])
    if device.type == "cuda":
        cores = torch.cuda.get_device_properties(device).multi_processor_count
        return Tuning(
            vector_cores=8 * cores,
            cube_cores=4 * cores,
            tile=2048,
            # A product that is not rounded before its sum would break ties differently.
            options={"enable_fp_fusion": False},
        )
    # triton-lang's interpreter multiplies matrices of bfloat16 as if their bits were integers.
    return Tuning(vector_cores=2, cube_cores=2, tile=1024, inputs=64, outputs=64, widens=True)
