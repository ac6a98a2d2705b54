"""Runs the Linalg that Ascend's compiler is given on this machine's CPU, in the place of an NPU.

A pytest plugin (`-p twin`): the parity suite then checks the ops as Ascend's front end lowers them.
The programs of a launch run one after another, so races would not show.
"""

from __future__ import annotations

import ctypes
import functools
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lowering import to_linalg
from torch import Tensor

from cold_kernels import load_ops
from cold_kernels.device import ASCEND_CHIPS, ascend_tuning
from cold_kernels.triton_lang import launch
from cold_kernels.triton_lang.cases import Case
from tests.kernels.conftest import Implementation

_ON_PATH = shutil.which("mlir-opt-19")
_UNPACKED = Path(sys.prefix) / "debian/usr/lib/llvm-19"
_LLVM = Path(_ON_PATH).resolve().parents[1] if _ON_PATH else _UNPACKED
_PASSES = shlex.split("""
    --allow-unregistered-dialect --convert-elementwise-to-linalg
    --one-shot-bufferize=allow-return-allocs-from-loops=true --canonicalize
    --convert-linalg-to-loops --expand-strided-metadata --lower-affine --convert-scf-to-cf
    --convert-cf-to-llvm --convert-math-to-llvm --convert-math-to-libm --arith-expand
    --convert-arith-to-llvm --convert-index-to-llvm --finalize-memref-to-llvm
    --convert-func-to-llvm --lower-affine --convert-arith-to-llvm --reconcile-unrealized-casts
""")
_TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int32: "i32",
    torch.int64: "i64",
}


def start(kernel: Any, programs: int, arguments: tuple[Any, ...], sizes: dict[str, Any]) -> None:
    """Stands in for `launch.start`."""
    names = [name for name in kernel.arg_names if name not in sizes]
    signature = tuple(
        (name, f"*{_TYPES[value.dtype]}" if isinstance(value, Tensor) else "i32")
        for name, value in zip(names, arguments, strict=True)
    )
    function = _compile(kernel, signature, tuple(sizes.items()))
    # Two buffers that only a device's launcher uses.
    unused = torch.zeros(64, dtype=torch.int8)
    packed = [_packed(value) for value in (unused, unused, *arguments)]
    flat = [part for parts in packed for part in parts]
    for program in range(programs):
        place = (programs, 1, 1, program, 0, 0)
        function(*flat, *map(ctypes.c_int32, place))


def _packed(value: Tensor | int) -> list[Any]:
    """What C passes for a kernel's argument: a number, or MLIR's description of a buffer."""
    if not isinstance(value, Tensor):
        return [ctypes.c_int32(value)]
    pointer = ctypes.c_void_p(value.data_ptr())
    return [pointer, pointer, *map(ctypes.c_int64, (0, value.numel(), 1))]


@functools.cache
def _compile(
    kernel: Any, signature: tuple[tuple[str, str], ...], sizes: tuple[tuple[str, Any], ...]
) -> Callable[..., None]:
    linalg = to_linalg(Case(kernel, "any", dict(signature), dict(sizes)))
    folder = Path(tempfile.mkdtemp(prefix="twin-"))
    try:
        lowered = _run("mlir-opt", *_PASSES, text=linalg.text)
        llvm = _run("mlir-translate", "--mlir-to-llvmir", text=lowered)
        _run("llc", "-O1", "-relocation-model=pic", "-filetype=obj", "-mcpu=native",
             "-o", str(folder / "twin.o"), text=llvm)  # fmt: skip
        library = folder / "twin.so"
        subprocess.run(["cc", "-shared", "-o", library, folder / "twin.o", "-lm"], check=True)
        function = getattr(ctypes.CDLL(str(library)), linalg.function)
    finally:
        shutil.rmtree(folder)
    function.restype = None
    return function  # type: ignore[no-any-return]


def _run(tool: str, *arguments: str, text: str) -> str:
    found = shutil.which(f"{tool}-19") or str(_LLVM / "bin" / tool)
    result = subprocess.run(
        [found, *arguments],
        input=text,
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise RuntimeError(f"{tool}: {result.stderr[:800]}")
    return result.stdout


def pytest_configure() -> None:
    """Puts the twin in the launcher's place, for the whole run."""
    for name in ("libmlir_float16_utils.so.19.1", "libmlir_c_runner_utils.so.19.1"):
        ctypes.CDLL(str(_LLVM / "lib" / name), mode=ctypes.RTLD_GLOBAL)
    patch = pytest.MonkeyPatch()
    patch.setattr(launch, "start", start)
    patch.setattr(launch, "tuning_of", lambda _: ascend_tuning(ASCEND_CHIPS["Ascend910B3"]))


@pytest.fixture(scope="session")
def implementation() -> Implementation:
    """The only implementation that the parity suite is run on."""
    return Implementation(load_ops("triton_lang", torch.device("cpu")), torch.device("cpu"))
