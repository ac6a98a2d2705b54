"""Rows that take a given token, and how probable their decoding finds it.

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

from cold_backend.contract import Draw, LogProb, Pick, Reads, Row, Shape, Step, StepResult, emitting
from cold_kernels import Mode
from cold_kernels.reference import contrast_scores


def take_given(step: Step, expert: Tensor, base: Tensor, result: StepResult) -> None:
    """Replaces what rows have picked by what they were given.

    Args:
        step: the step that gave the logits.
        expert: [E, V] logits of the emitting rows.
        base: [E, V] likewise.
        result: of the step; a row whose logits are not finite stays as it is.

    Mutates: result.
    """
    given = step.draws[:, Draw.GIVEN]
    reads = step.rows[emitting(step.rows)][:, Row.READS]
    for row in np.flatnonzero((given >= 0) & (result.picks[:, Pick.TOKEN] >= 0)):
        token = int(given[row])
        e, a = expert[row].float(), base[row].float()  # [V]
        own = {
            LogProb.EXPERT: _own(e, token) if reads[row] & Reads.EXPERT else torch.nan,
            LogProb.BASE: _own(a, token) if reads[row] & Reads.BASE else torch.nan,
        }
        mode = Mode(step.draws[row, Draw.MODE])
        if mode is Mode.COLD:
            alpha, beta = step.shapes[row, [Shape.ALPHA, Shape.BETA]].tolist()
            decoding = _contrasted(e, a, token, alpha, beta)
        else:
            decoding = own[LogProb.BASE if mode is Mode.BASE else LogProb.EXPERT]
        result.picks[row, Pick.TOKEN] = token
        for column, value in (own | {LogProb.DECODING: decoding}).items():
            result.log_probs[row, column] = value


def _own(logits: Tensor, token: int) -> float:
    return float(logits[token] - logits.logsumexp(0))


def _contrasted(expert: Tensor, base: Tensor, token: int, alpha: float, beta: float) -> float:
    """Log-probability under contrast of logits [V]."""
    mode, alphas, betas = (
        torch.tensor([x], device=expert.device) for x in (Mode.COLD, alpha, beta)
    )
    scores = contrast_scores(expert[None], base[None], mode, alphas, betas)[0]
    valid = scores > -torch.inf
    if not valid[token]:
        return _own(expert, token)
    mass = expert[valid].logsumexp(0) - expert.logsumexp(0)
    return float(mass + scores[token] - scores[valid].logsumexp(0))
