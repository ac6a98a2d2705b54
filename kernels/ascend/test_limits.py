"""What the check must not let pass: scalar code, and tiles that the buffer cannot hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import triton
import triton.language as tl
from hivm import profile
from lowering import LoweringError, to_hivm, to_linalg

from cold_kernels.device import ASCEND_CHIPS, ascend_tuning
from cold_kernels.triton_lang.cases import Case, cases

CHIP = "Ascend910B3"


@triton.jit
def compares_long_integers(x, y, n, TILE: tl.constexpr):  # noqa: N803
    at = tl.arange(0, TILE)
    longs = tl.load(x + at, mask=at < n, other=0)
    tl.store(y + at, tl.where(longs < 7, 1.0, 0.0), mask=at < n)


@triton.jit
def scatters(x, y, n, TILE: tl.constexpr):  # noqa: N803
    at = tl.arange(0, TILE)
    places = tl.load(x + at, mask=at < n, other=0)
    tl.store(y + places, tl.load(y + at), mask=at < n)


@pytest.mark.parametrize(("kernel", "dtype"), [(compares_long_integers, "i64"), (scatters, "i32")])
def test_scalar_code_is_seen(tmp_path: Path, kernel: Any, dtype: str) -> None:
    case = Case(kernel, dtype, {"x": f"*{dtype}", "y": "*fp32", "n": "i32"}, {"TILE": 1024})
    linalg = to_linalg(case)
    assert profile(to_hivm(linalg, CHIP, tmp_path), linalg.function).scalar_loops > 0


def test_a_tile_twice_as_large_overflows_the_buffer(tmp_path: Path) -> None:
    fitting = ASCEND_CHIPS[CHIP]
    twice = dataclasses.replace(fitting, buffer_bytes=2 * fitting.buffer_bytes)
    case = next(c for c in cases(ascend_tuning(twice)) if c.kernel.__name__ == "cold_pick")
    with pytest.raises(LoweringError, match="overflow"):
        to_hivm(to_linalg(case), CHIP, tmp_path)
