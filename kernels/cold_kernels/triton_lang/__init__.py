"""The ops in triton-lang: one source for CUDA, ROCm and Ascend.

`contrast` and `lora` hold the kernels, `launch` runs them on tensors and registers the ops,
and `cases` lists what offline compilers are given. Every kernel is launched with about as many
programs as there are cores, each of which takes items in turn: Ascend's cores are expensive to
start. Sizes in capitals are fixed when a kernel is compiled.
"""
