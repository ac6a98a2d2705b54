"""How probable a decoding finds a token that it was made to take.

Under contrast that is the expert's probability, with the mass of the valid set shared out anew:

    p(t) = P(valid) * softmax over valid of (e + beta * (e - a))   for t in the valid set
    p(t) = the expert's own probability                            elsewhere

It sums to 1, is the expert's for beta 0 and for alpha 1, and gives a token outside the valid set,
where contrast alone would say minus infinity, what the expert gives it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cold_backend.contract import Table
from cold_backend.decoding.logits import NEVER, Logits, column
from cold_kernels import Mode, Ops


def take_forced(choices: Table, token: Tensor) -> Tensor:
    """The tokens [E] of the choices, where one was forced that one.

    A choice whose logits are not finite stays as it is.
    """
    if not (choices["forced"] >= 0).any():
        return token
    forced = column(choices, "forced", token.device)
    return torch.where((forced >= 0) & (token >= 0), forced, token)


def forced_log_probs(
    ops: Ops, choices: Table, logits: Logits, token: Tensor, expert: Tensor, base: Tensor
) -> Tensor:
    """Log-probabilities [E] of forced tokens under their decodings; of others, of no meaning.

    Args:
        ops: the kernels.
        choices: of the step.
        logits: of the choices.
        token: [E] taken; -1 means nothing.
        expert: [E] the expert's own log-probability of each.
        base: [E] likewise the base's.
    """
    own = torch.where(logits.mode == Mode.BASE, base, expert)
    contrasted = np.flatnonzero((choices["forced"] >= 0) & (choices["mode"] == Mode.COLD))
    if not len(contrasted):
        return own
    at = torch.from_numpy(contrasted).to(token.device)
    tokens = token[at, None].clamp(min=0)
    return own.index_copy(0, at, _contrasted(ops, logits.take(contrasted), tokens))


def _contrasted(ops: Ops, of: Logits, tokens: Tensor) -> Tensor:
    """Log-probabilities [n] under contrast of tokens [n, 1]."""
    scores = ops.contrast_scores(of.expert, of.base, mode=of.mode, alpha=of.alpha, beta=of.beta)
    valid = scores > NEVER  # [n, V]
    expert = of.expert.float()
    mass = expert.masked_fill(~valid, NEVER).logsumexp(1) - expert.logsumexp(1)
    contrast = mass + ops.log_probs(scores, tokens)[:, 0]
    own = ops.log_probs(expert, tokens)[:, 0]
    return torch.where(valid.gather(1, tokens)[:, 0], contrast, own)
