"""The ops in C++ for the CPU, built when the package is installed (`kernels/csrc`)."""

from __future__ import annotations

import importlib.util

import torch

from cold_kernels.ops import define
from cold_kernels.packing import PANELS

NAMESPACE = "cold_native"
PACKING = PANELS

_built = importlib.util.find_spec("cold_kernels._native")
if _built is None or _built.origin is None:
    raise ImportError("the native ops were not built when cold-kernels was installed")
LIBRARY = define(NAMESPACE)
torch.ops.load_library(_built.origin)
