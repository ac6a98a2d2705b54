"""An adapter's matrices in a safetensors file: their names and shapes first, their values later.

safetensors' own reader maps the file, see `files`, and makes all tensors at once.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cold_backend.adapters.files import AdapterFile
from cold_backend.adapters.pace import Pace

_MAX_DIMENSIONS = 8
_METADATA = "__metadata__"
# Types of other sizes, which no adapter has, are told from broken files all the same.
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_BLOCK = 1 << 18  # values that are looked at at once


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class AdapterWeights:
    """The tensors of an open safetensors file.

    Args:
        file: stays open for as long as values are read.
        max_header_bytes: a longer header is no adapter's.

    Raises:
        ConfigError: the header is broken, or does not fit the file.
        AdapterUnreadableError: it could not be read, but may be later.
    """

    def __init__(self, file: AdapterFile, max_header_bytes: int) -> None:
        self._file = file
        length = int.from_bytes(file.read(0, 8), "little") if file.size >= 8 else file.size
        if length > file.size - 8:
            raise file.problem("the header is longer than the file")
        if length > max_header_bytes:
            raise file.problem(f"the header may have at most {max_header_bytes} bytes")
        self._begin = 8 + length
        try:
            header = json.loads(file.read(8, length), object_pairs_hook=_without_doubles)
            self._entries = _entries(header)
            _check_ranges(self._entries, file.size - self._begin)
        except (ValueError, RecursionError) as error:
            raise file.problem(f"the header is broken: {str(error)[:200]}") from error

    def outline(self) -> dict[str, Tensor]:
        """All tensors by name, on the meta device: without values."""
        return {
            name: torch.empty(entry.shape, dtype=entry.dtype, device="meta")
            for name, entry in self._entries.items()
        }

    def read(self, name: str, pace: Pace) -> Tensor:
        """A tensor with its values.

        Raises:
            ConfigError: a value is not finite.
            AdapterUnreadableError: it could not be read, or the file has been cut short.
        """
        entry = self._entries[name]
        tensor = torch.empty(entry.shape, dtype=entry.dtype)
        content = tensor.view(-1).view(torch.uint8).numpy()
        self._file.read_into(content.data, self._begin + entry.begin, pace)
        if not _is_finite(content, entry.dtype, pace):
            raise self._file.problem(f"{name} holds values that are not finite")
        return tensor


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key comes twice")
    return values


def _entries(header: Any) -> dict[str, _Entry]:
    if not isinstance(header, dict):
        raise ValueError("it is not an object")
    header.pop(_METADATA, None)
    return {name: _entry(name, value) for name, value in header.items()}


def _entry(name: str, value: Any) -> _Entry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name[:64]!r} needs dtype, shape and data_offsets")
    dtype = _TYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    shape, offsets = _sizes(value["shape"]), _sizes(value["data_offsets"])
    if dtype is None or shape is None or offsets is None or len(offsets) != 2:
        raise ValueError(f"{name[:64]!r} has a dtype, shape or data_offsets that is none")
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name[:64]!r} has data_offsets that are not those of its shape")
    return _Entry(dtype, shape, begin, end)


def _sizes(value: Any) -> tuple[int, ...] | None:
    """Numbers of elements or bytes, if they are such."""
    if not isinstance(value, list) or len(value) > _MAX_DIMENSIONS:
        return None
    return tuple(value) if all(type(n) is int and 0 <= n < 1 << 62 for n in value) else None


def _check_ranges(entries: dict[str, _Entry], size: int) -> None:
    """Every byte belongs to exactly one tensor."""
    at = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != at:
            raise ValueError("tensors overlap, or bytes between them belong to none")
        at = entry.end
    if at != size:
        raise ValueError(f"it wants {at} bytes of values, the file has {size}")


def _is_finite(content: npt.NDArray[np.uint8], dtype: torch.dtype, pace: Pace) -> bool:
    # With numpy, on this thread alone: torch would take a second set of OpenMP threads.
    if dtype is torch.bfloat16:
        exponent = np.uint16(0x7F80)
        bits = content.view(np.uint16)
        blocks = (bits[at : at + _BLOCK] for at in range(0, len(bits), _BLOCK))
        finite = (bool(((block & exponent) != exponent).all()) for block in blocks)
    else:
        values = content.view(np.float16 if dtype is torch.float16 else np.float32)
        parts = (values[at : at + _BLOCK] for at in range(0, len(values), _BLOCK))
        finite = (bool(np.isfinite(part).all()) for part in parts)
    for is_finite in finite:
        if not is_finite:
            return False
        pace.rest()
    return True
