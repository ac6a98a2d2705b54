"""Chooses the implementation of the ops, once, when a model loads."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from cold_kernels import reference
from cold_kernels.ops import ContrastScores, ContrastSelect, LoraApply

_log = logging.getLogger(__name__)


class KernelError(ValueError):
    """The named implementation does not exist."""


@dataclass(frozen=True, slots=True)
class Ops:
    """The ops of one implementation; their contracts are in `cold_kernels.ops`."""

    name: str
    contrast_scores: ContrastScores
    contrast_select: ContrastSelect
    lora_apply: LoraApply


_IMPLEMENTATIONS = {
    "reference": Ops(
        name="reference",
        contrast_scores=reference.contrast_scores,
        contrast_select=reference.contrast_select,
        lora_apply=reference.lora_apply,
    ),
}


def load_ops(name: str, device: torch.device) -> Ops:
    """The ops to use on a device.

    Args:
        name: an implementation, or `auto` for the best one that the device has.
        device: where the tensors are.

    Raises:
        KernelError: no implementation has that name.
    """
    chosen = "reference" if name == "auto" else name
    if chosen not in _IMPLEMENTATIONS:
        known = ", ".join(("auto", *_IMPLEMENTATIONS))
        raise KernelError(f"kernels: must be one of {known}, got {name!r}")
    _log.info("kernels on %s: %s", device, chosen)
    return _IMPLEMENTATIONS[chosen]
