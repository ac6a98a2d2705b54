"""The ops of whole rows of scores made of torch's own operators: the specification, and what other
devices than the CPU use. Contracts: `choice_ops`.

All rows at once, in shapes that depend on none of their values, so that nothing waits for the
device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cold_kernels.choice_ops import Drawn
from cold_kernels.noise import MOST, gumbel

_NEVER = float("-inf")


def implement(library: torch.library.Library) -> None:
    """Registers the ops."""
    library.impl("penalise", penalise, "CompositeExplicitAutograd")
    library.impl("draw", draw, "CompositeExplicitAutograd")
    library.impl("log_probs", log_probs, "CompositeExplicitAutograd")
    library.impl("divergence", divergence, "CompositeExplicitAutograd")


def penalise(
    scores: Tensor,
    *,
    row: Tensor,
    token: Tensor,
    times: Tensor,
    repetition: Tensor,
    presence: Tensor,
    frequency: Tensor,
) -> None:
    """See `choice_ops.Penalise`."""
    seen = scores[row, token]
    seen = torch.where(seen > 0, seen / repetition[row], seen * repetition[row])
    seen = seen - times * frequency[row]
    scores[row, token] = seen - (times > 0) * presence[row]


def draw(
    scores: Tensor,
    *,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    key: Tensor,
    room: int,
) -> Drawn:
    """See `choice_ops.Draw`."""
    vocab = scores.shape[1]
    heat, top_k, top_p, min_p = (x[:, None] for x in (temperature, top_k, top_p, min_p))
    ordered, tokens = _best(scores, min(room, vocab))  # [R, n]
    z = _below(ordered, ordered[:, :1], heat)
    kept = _filtered(z, _below(scores, ordered[:, :1], heat), top_k, top_p, min_p)
    kept = torch.where(heat > 0, kept, z == 0) & (ordered > _NEVER)
    keys = torch.where(kept, torch.where(heat > 0, z + gumbel(key, tokens.int()), z), _NEVER)
    best = keys.max(dim=1, keepdim=True).values
    token = torch.where(kept & (keys == best), tokens, vocab).min(dim=1).values

    # The room was enough if all in it that is kept comes before its end, or if nothing beyond can
    # win.
    lowest = torch.where(kept, ordered, torch.inf).min(dim=1).values
    beaten = (temperature > 0) & (z[:, -1] + MOST < best[:, 0])
    certain = (top_k[:, 0] <= ordered.shape[1]) & ((lowest > ordered[:, -1]) | beaten)
    nothing = ordered[:, 0] == _NEVER
    return Drawn(token.masked_fill(nothing, -1), certain | nothing | (room >= vocab))


def log_probs(logits: Tensor, token: Tensor) -> Tensor:
    """See `choice_ops.LogProbs`."""
    logits = logits.float()
    return logits.gather(1, token) - logits.logsumexp(dim=1, keepdim=True)


def divergence(expert: Tensor, base: Tensor) -> Tensor:
    """See `choice_ops.Divergence`."""
    p, q = expert.float().softmax(dim=1), base.float().softmax(dim=1)

    def bits(x: Tensor) -> Tensor:
        return torch.where(x > 0, x * (2 * x / (p + q)).log2(), 0.0).sum(dim=1)

    return ((bits(p) + bits(q)) / 2).clamp(0, 1)


def _best(scores: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The n best scores [R, n] in falling order, and their tokens, of equals the leftmost first.

    Which of the equals at the end of n are taken is open.
    """
    if n == scores.shape[1]:
        ordered, tokens = scores.sort(dim=1, descending=True, stable=True)
        return ordered, tokens
    tokens = scores.topk(n).indices.sort(dim=1).values
    ordered, order = scores.gather(1, tokens).sort(dim=1, descending=True, stable=True)
    return ordered, tokens.gather(1, order)


def _below(scores: Tensor, best: Tensor, heat: Tensor) -> Tensor:
    """How far scores are below the best, which may be infinite, in temperatures."""
    below = torch.where(scores == best, 0.0, scores - best)
    return below / torch.where(heat > 0, heat, 1.0)


def _filtered(z: Tensor, all_z: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Which of the best tokens [R, n] the filters leave.

    Args:
        z: [R, n] of the best, in falling order.
        all_z: [R, V] of all tokens.
        top_k, top_p, min_p: [R, 1].
    """
    rank = torch.arange(z.shape[1], device=z.device)
    weights = z.exp()
    kept = (weights >= min_p) & ((top_k == 0) | (rank < top_k))
    weights = weights * kept
    of_all = all_z.exp()
    mass = (of_all * (of_all >= min_p)).sum(dim=1, keepdim=True)
    mass = torch.where(top_k > 0, weights.sum(dim=1, keepdim=True), mass)
    return kept & ((top_p >= 1) | (weights.cumsum(dim=1) - weights < top_p * mass))
