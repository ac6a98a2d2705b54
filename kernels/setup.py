"""Builds the native CPU ops against the installed torch."""

from glob import glob

from setuptools import setup
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
        )
    ],
    cmdclass={"build_ext": BuildExtension.with_options(use_ninja=False)},
)
