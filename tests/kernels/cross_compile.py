"""Compiles every triton-lang kernel for a GPU that need not be here; a program of its own, because
the interpreter and the compiler cannot be had in one process."""

from __future__ import annotations

import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cold_kernels.device import Tuning
from cold_kernels.triton_lang.cases import cases

TARGETS = {
    "sm_80": (GPUTarget("cuda", 80, 32), "cubin"),
    "sm_90": (GPUTarget("cuda", 90, 32), "cubin"),
    "gfx942": (GPUTarget("hip", "gfx942", 64), "hsaco"),
}


def main() -> None:
    target, binary = TARGETS[sys.argv[1]]
    count = 0
    for case in cases(Tuning(vector_cores=1, cube_cores=1, tile=2048)):
        signature = case.signature | dict.fromkeys(case.sizes, "constexpr")
        in_order = {name: signature[name] for name in case.kernel.arg_names}
        source = ASTSource(case.kernel, in_order, case.sizes)
        compiled = triton.compile(source, target=target)
        if not compiled.asm[binary]:
            raise SystemExit(f"{case.name}: no {binary}")
        count += 1
    print(f"{count} kernels")


if __name__ == "__main__":
    main()
