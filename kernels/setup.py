"""Builds the native CPU ops against the installed torch, and tritonserver's guard."""

from glob import glob

from setuptools import Extension, setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

setup(
    ext_modules=[
        CppExtension(
            "cold_kernels._native",
            sorted(glob("csrc/*.cpp")),
            depends=glob("csrc/*.h"),
            extra_compile_args=[
                "-O3",
                "-std=c++20",
                "-fno-math-errno",
                "-fopenmp",
                "-Wno-psabi",
                "-g0",
            ],
            extra_link_args=["-fopenmp"],
        ),
        # No module, but a library that tritonserver's process loads, see cold_backend/server.
        Extension(
            "cold_kernels._tritonserver_guard",
            ["guard/guard.c"],
            extra_compile_args=["-O2", "-Wall", "-g0"],
            extra_link_args=["-ldl"],
        ),
    ],
    cmdclass={"build_ext": BuildExtension.with_options(use_ninja=False)},
)
