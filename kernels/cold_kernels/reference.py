"""The specification of the ops: PyTorch, float32, on any device. Signatures: `ops`."""

from __future__ import annotations

import torch
from torch import Tensor

from cold_kernels import choice_torch, contrast_torch, layer_torch
from cold_kernels.noise import gumbel
from cold_kernels.ops import Mode, Selection, define
from cold_kernels.packing import PLAIN

NAMESPACE = "cold_reference"
PACKING = PLAIN


def contrast_select(
    expert: Tensor,
    base: Tensor,
    *,
    mode: Tensor,
    alpha: Tensor,
    beta: Tensor,
    temperature: Tensor,
    key: Tensor | None,
) -> Selection:
    """See `ops.ContrastSelect`."""
    scores = contrast_torch.contrast_scores(expert, base, mode=mode, alpha=alpha, beta=beta)
    keys = scores
    if key is not None:
        samples = temperature[:, None] > 0
        divisor = torch.where(samples, temperature[:, None], 1.0)
        # Below its best, a score can be divided by the smallest temperature without overflow.
        best = scores.max(dim=1, keepdim=True).values
        below = torch.where(scores == best, 0.0, scores - best)  # the best may be infinite
        tokens = torch.arange(expert.shape[1], dtype=torch.int32, device=expert.device)
        noise = gumbel(key, tokens)
        keys = torch.where(samples, below / divisor + noise, scores)
    token = _leftmost_argmax(keys)

    reads_expert, reads_base = mode != Mode.BASE, mode != Mode.EXPERT
    broken = (reads_expert & ~_usable(expert)) | (reads_base & ~_usable(base))
    picked = token[:, None]
    vocab = expert.shape[1]
    count = torch.where(reads_expert, contrast_torch.valid_set(expert.float(), alpha).sum(1), vocab)
    return Selection(
        token=token.masked_fill(broken, -1),
        score=scores.gather(1, picked)[:, 0],
        expert_log_prob=_log_prob(expert, picked).masked_fill(~reads_expert, torch.nan),
        base_log_prob=_log_prob(base, picked).masked_fill(~reads_base, torch.nan),
        valid_count=count.int(),
        expert_token=_leftmost_argmax(expert.float()).masked_fill(~reads_expert, -1),
    )


def lora_apply(
    y: Tensor,
    x: Tensor,
    *,
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    rank: Tensor,
    index: Tensor,
    strength: Tensor,
) -> None:
    """See `ops.LoraApply`."""
    for of_tokens, strengths in zip(index, strength, strict=True):
        for adapter in sorted(set(of_tokens.tolist())):
            if adapter < 0 or not rank[adapter]:
                continue
            tokens = (of_tokens == adapter).nonzero()[:, 0]
            ranks = slice(0, int(rank[adapter]))
            shrunk = x[tokens].float() @ a[adapter, ranks].float().T  # [t, rank]
            factor = scale[adapter] * strengths[tokens, None]  # [t, 1]
            delta = factor * (shrunk @ b[adapter, ranks].float())  # [t, M]
            y[tokens] = (y[tokens].float() + delta).to(y.dtype)


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


LIBRARY = define(NAMESPACE)
LIBRARY.impl("contrast_select", contrast_select, "CompositeExplicitAutograd")
LIBRARY.impl("lora_apply", lora_apply, "CompositeExplicitAutograd")
contrast_torch.implement(LIBRARY)
choice_torch.implement(LIBRARY)
layer_torch.implement(LIBRARY, lora_apply)
