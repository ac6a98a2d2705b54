"""From a triton-lang kernel to the IR that Ascend's compilers work on: TTIR, Linalg, HIVM."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ascendnpuir
from triton._C.libtriton import ir
from triton.backends.ascend import compiler as ascend
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import ASTSource, make_backend

from cold_kernels.triton_lang.cases import Case

HERE = Path(__file__).parent
_COMPILER = Path(ascendnpuir.__file__).parent / "bin" / "bishengir-compile"
_PASSES = (
    "--enable-auto-multi-buffer=True",
    "--enable-auto-bind-sub-block=True",
    "--enable-hfusion-compile=true",
    "--enable-hivm-compile=true",
    "--enable-triton-kernel-compile=true",
)


class LoweringError(Exception):
    """A compiler refused a kernel."""


@dataclass(frozen=True)
class Linalg:
    """A kernel as Linalg.

    Attributes:
        text: MLIR.
        function: the kernel's name in it.
    """

    text: str
    function: str


def to_linalg(case: Case) -> Linalg:
    """Raises LoweringError if triton-ascend refuses the kernel."""
    target = GPUTarget("npu", "Ascend910B3", 0)
    backend: Any = make_backend(target)
    options = backend.parse_options({})
    source = ASTSource(fn=case.kernel, signature=case.signature, constants=case.sizes)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    metadata = {"target": target, **options.__dict__}
    try:
        module = source.make_ir(
            options, backend.get_codegen_implementation(), backend.get_module_map(), context
        )
        module = ascend.make_ttir(module, metadata, options)
        text = ascend.ttir_to_linalg(module, metadata, options, named_ops=True)
    except subprocess.CalledProcessError as error:
        raise LoweringError(_last_lines(error.stderr.decode())) from error
    text, metadata = ascend._parse_linalg_metadata(text, metadata)
    return Linalg(text, metadata["kernel_name"])


def to_hivm(linalg: Linalg, chip: str, folder: Path) -> str:
    """The HIVM for a chip.

    Raises:
        LoweringError: the compiler refuses it, for one because the buffer is too small.
    """
    source, output, hivm = (folder / f"{chip}.{end}" for end in ("mlir", "out", "hivm"))
    source.write_text(linalg.text)
    result = subprocess.run(
        [_COMPILER, source, f"--target={chip}", *_PASSES, "-o", output],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{HERE}:{os.environ['PATH']}", "HIVM_OUT": str(hivm)},
    )
    if result.returncode or not hivm.exists():
        raise LoweringError(_last_lines(result.stdout + result.stderr))
    return hivm.read_text()


def _last_lines(text: str) -> str:
    lines = [line for line in text.splitlines() if "error" in line or "overflow" in line]
    return " | ".join(lines[:3]) or text[-300:]
