"""Chooses the implementation of the ops, once, when a model loads."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cold_kernels.choice_ops import Divergence, Draw, Drawn, LogProbs, Penalise
from cold_kernels.layer_ops import AddRmsNorm, Attend, Project, SiluMultiply
from cold_kernels.ops import ContrastScores, ContrastSelect, LoraApply, Selection
from cold_kernels.packing import Packing

_log = logging.getLogger(__name__)

# The module that registers an implementation's ops; NAMESPACE says where.
_MODULES = {
    "native": "cold_kernels.native",
    "triton_lang": "cold_kernels.triton_lang.launch",
    "reference": "cold_kernels.reference",
}
_BEST = {"cpu": "native", "cuda": "triton_lang", "npu": "triton_lang"}
IMPLEMENTATIONS = tuple(_MODULES)


class KernelError(ValueError):
    """The named implementation does not exist, or does not run on this machine."""


@dataclass(frozen=True, slots=True)
class Ops:
    """The ops of one implementation; contracts: `ops`, `choice_ops`, `layer_ops`."""

    name: str
    contrast_select: ContrastSelect
    contrast_scores: ContrastScores
    divergence: Divergence
    penalise: Penalise
    draw: Draw
    log_probs: LogProbs
    lora_apply: LoraApply
    packing: Packing
    project: Project
    add_rms_norm: AddRmsNorm
    silu_multiply: SiluMultiply
    attend: Attend


def load_ops(name: str, device: torch.device) -> Ops:
    """The ops to use on a device.

    Args:
        name: an implementation, or `auto` for the best one that the device has.
        device: where the tensors are.

    Raises:
        KernelError: no implementation has that name, or it cannot be loaded.
    """
    chosen = _BEST[device.type] if name == "auto" else name
    if chosen not in _MODULES:
        known = ", ".join(("auto", *_MODULES))
        raise KernelError(f"kernels: must be one of {known}, got {name!r}")
    try:
        module = importlib.import_module(_MODULES[chosen])
    except ImportError as error:
        raise KernelError(f"kernels: {chosen} is not available here: {error}") from error
    _log.info("kernels on %s: %s", device, chosen)
    ops = getattr(torch.ops, module.NAMESPACE)
    return Ops(
        name=chosen,
        contrast_select=_named(ops.contrast_select.default, Selection),
        contrast_scores=ops.contrast_scores.default,
        divergence=ops.divergence.default,
        penalise=ops.penalise.default,
        draw=_named(ops.draw.default, Drawn),
        log_probs=ops.log_probs.default,
        lora_apply=ops.lora_apply.default,
        packing=module.PACKING,
        project=ops.project.default,
        add_rms_norm=ops.add_rms_norm.default,
        silu_multiply=ops.silu_multiply.default,
        attend=ops.attend.default,
    )


def _named(op: Any, outputs: Callable[..., Any]) -> Any:
    """The op with its outputs by name."""

    def run(*tensors: Tensor, **settings: Any) -> Any:
        return outputs(*op(*tensors, **settings))

    return run
