"""Devices by name: the only module that imports torch_npu."""

from __future__ import annotations

import importlib.util

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
