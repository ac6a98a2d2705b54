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

from cold_backend.contract import Float32Array, Int64Array, Table
from cold_backend.decoding.logits import NEVER, Logits, log_probs_of
from cold_kernels import Mode, Ops


def take_forced(choices: Table, tokens: Int64Array) -> Int64Array:
    """The tokens [E] of the choices, where one was forced that one.

    A choice whose logits are not finite stays as it is.
    """
    forced = choices["forced"]
    taken: Int64Array = np.where((forced >= 0) & (tokens >= 0), forced, tokens)
    return taken


def forced_log_probs(
    ops: Ops,
    choices: Table,
    logits: Logits,
    tokens: Int64Array,
    expert: Float32Array,
    base: Float32Array,
) -> Float32Array:
    """Log-probabilities [E] of forced tokens under their decodings; NaN for others.

    Args:
        ops: the kernels.
        choices: of the step.
        logits: of the choices.
        tokens: [E] taken.
        expert: [E] the expert's own log-probability of each.
        base: [E] likewise the base's.
    """
    is_forced = (choices["forced"] >= 0) & (tokens >= 0)
    own = np.where(choices["mode"] == Mode.BASE, base, expert)
    found = np.where(is_forced, own, np.float32(np.nan))
    contrasted = np.flatnonzero(is_forced & (choices["mode"] == Mode.COLD))
    if len(contrasted):
        of = logits.take(contrasted)
        taken = torch.from_numpy(tokens[contrasted]).to(of.expert.device)
        found[contrasted] = _contrasted(ops, of, taken[:, None]).cpu().numpy()
    return found


def _contrasted(ops: Ops, of: Logits, tokens: Tensor) -> Tensor:
    """Log-probabilities [n] under contrast of tokens [n, 1]."""
    scores = ops.contrast_scores(of.expert, of.base, mode=of.mode, alpha=of.alpha, beta=of.beta)
    valid = scores > NEVER  # [n, V]
    expert = of.expert.float()
    mass = expert.masked_fill(~valid, NEVER).logsumexp(1) - expert.logsumexp(1)
    contrast = mass + log_probs_of(scores, tokens)[:, 0]
    return torch.where(valid.gather(1, tokens)[:, 0], contrast, log_probs_of(expert, tokens)[:, 0])
