"""The ops of contrastive LoRA decoding, one signature each, several implementations.

Dimensions, here and in the docstrings: R rows, V vocabulary, T tokens, L adapters, A adapters of
one token at most, K LoRA rank (adapters of a lower rank are padded with zeros), N input features,
M output features, H hidden size.
"""

from cold_kernels.choice_ops import Drawn
from cold_kernels.dispatch import IMPLEMENTATIONS, KernelError, Ops, load_ops
from cold_kernels.ops import Mode, Selection

__all__ = ["IMPLEMENTATIONS", "Drawn", "KernelError", "Mode", "Ops", "Selection", "load_ops"]
