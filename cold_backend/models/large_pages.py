"""Memory in pages as large as the system has.

Whoever reads here and there in much memory waits for the tables of its pages, of which there are
fewer then.
"""

from __future__ import annotations

import math
import mmap
from contextlib import suppress

import torch
from torch import Tensor


def zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Of the type and on the device of `like`; written to, so that the memory is really there."""
    size = math.prod(shape) * like.element_size()
    if like.device.type != "cpu" or not size or not hasattr(mmap, "MADV_HUGEPAGE"):
        return like.new_full(shape, 0.0)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # of a system that has one size alone
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=like.dtype).view(shape).zero_()
