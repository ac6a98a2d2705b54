"""The contrast scores of whole rows made of torch's own operators: the specification, and what
other devices than the CPU use. Contract: `ops.ContrastScores`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cold_kernels.ops import Mode

_NEVER = float("-inf")


def implement(library: torch.library.Library) -> None:
    """Registers the op."""
    library.impl("contrast_scores", contrast_scores, "CompositeExplicitAutograd")


def contrast_scores(
    expert: Tensor, base: Tensor, *, mode: Tensor, alpha: Tensor, beta: Tensor
) -> Tensor:
    """See `ops.ContrastScores`."""
    e, a = expert.float(), base.float()
    mode, beta = mode[:, None], beta[:, None]
    contrast = torch.where(beta == 0, e, e + beta * (e - a))
    contrast = contrast.masked_fill(~valid_set(e, alpha), _NEVER)
    return torch.where(mode == Mode.COLD, contrast, torch.where(mode == Mode.EXPERT, e, a))


def valid_set(expert: Tensor, alpha: Tensor) -> Tensor:
    """[R, V] booleans, of expert [R, V] float32 and alpha [R].

    A token at -inf is never valid, whatever alpha is.
    """
    threshold = expert.max(dim=1, keepdim=True).values + alpha.log()[:, None]
    return (expert >= threshold) & (expert > _NEVER)
