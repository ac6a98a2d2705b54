"""The specification of the ops: PyTorch, float32, on any device. Signatures: `ops`."""

from __future__ import annotations

import torch
from torch import Tensor

from cold_kernels.ops import Mode, Selection

_NEVER = float("-inf")


def contrast_scores(
    expert: Tensor, base: Tensor, *, mode: Tensor, alpha: Tensor, beta: Tensor
) -> Tensor:
    """See `ops.ContrastScores`."""
    e, a = expert.float(), base.float()
    valid = _valid_set(e, alpha)
    contrast = (e + beta[:, None] * (e - a)).masked_fill(~valid, _NEVER)
    mode = mode[:, None]
    return torch.where(mode == Mode.COLD, contrast, torch.where(mode == Mode.EXPERT, e, a))


def contrast_select(
    expert: Tensor,
    base: Tensor,
    *,
    mode: Tensor,
    alpha: Tensor,
    beta: Tensor,
    temperature: Tensor,
    noise: Tensor | None,
) -> Selection:
    """See `ops.ContrastSelect`."""
    scores = contrast_scores(expert, base, mode=mode, alpha=alpha, beta=beta)
    keys = scores
    if noise is not None:
        samples = temperature[:, None] > 0
        divisor = torch.where(samples, temperature[:, None], 1.0)
        # Below its best, a score can be divided by the smallest temperature without overflow.
        best = scores.max(dim=1, keepdim=True).values
        keys = torch.where(samples, (scores - best) / divisor + noise, scores)
    token = _leftmost_argmax(keys)

    reads_expert, reads_base = mode != Mode.BASE, mode != Mode.EXPERT
    broken = (reads_expert & ~_usable(expert)) | (reads_base & ~_usable(base))
    picked = token[:, None]
    vocab = expert.shape[1]
    count = torch.where(reads_expert, _valid_set(expert.float(), alpha).sum(1), vocab)
    return Selection(
        token=token.masked_fill(broken, -1),
        score=scores.gather(1, picked)[:, 0],
        expert_log_prob=_log_prob(expert, picked).masked_fill(~reads_expert, torch.nan),
        base_log_prob=_log_prob(base, picked).masked_fill(~reads_base, torch.nan),
        valid_count=count.int(),
        expert_token=_leftmost_argmax(expert.float()).masked_fill(~reads_expert, -1),
    )


def lora_apply(y: Tensor, x: Tensor, *, a: Tensor, b: Tensor, scale: Tensor, index: Tensor) -> None:
    """See `ops.LoraApply`."""
    for adapter in sorted(set(index.tolist())):
        if adapter < 0:
            continue
        tokens = (index == adapter).nonzero()[:, 0]
        shrunk = x[tokens].float() @ a[adapter].float().T  # [t, K]
        delta = scale[adapter] * (shrunk @ b[adapter].float().T)  # [t, M]
        y[tokens] = (y[tokens].float() + delta).to(y.dtype)


def _valid_set(expert: Tensor, alpha: Tensor) -> Tensor:
    """[R, V] booleans; a token at -inf is never valid, whatever alpha is."""
    threshold = expert.max(dim=1, keepdim=True).values + alpha.log()[:, None]
    return (expert >= threshold) & (expert > _NEVER)


def _leftmost_argmax(values: Tensor) -> Tensor:
    """[R] index of each row's first maximum; torch.argmax promises no order among equals."""
    best = values.max(dim=1, keepdim=True).values
    positions = torch.arange(values.shape[1], device=values.device)
    return torch.where(values == best, positions, values.shape[1] - 1).min(dim=1).values


def _log_prob(logits: Tensor, token: Tensor) -> Tensor:
    logits = logits.float()
    return logits.gather(1, token)[:, 0] - logits.logsumexp(dim=1)


def _usable(logits: Tensor) -> Tensor:
    """[R] whether a row has no NaN, no +inf, and one finite logit at least."""
    highest = logits.max(dim=1).values  # NaN wins a maximum
    return highest.isfinite()
