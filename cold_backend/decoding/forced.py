"""Rows that take a given token, and how probable their decoding finds it.

Under contrast that is the expert's probability, with the mass of the valid set shared out anew:

    p(t) = P(valid) * softmax over valid of (e + beta * (e - a))   for t in the valid set
    p(t) = the expert's own probability                            elsewhere

It sums to 1, is the expert's for beta 0 and for alpha 1, and gives a token outside the valid set,
where contrast alone would say minus infinity, what the expert gives it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cold_backend.contract import Draw, LogProb, Pick, Shape, Step, StepResult
from cold_kernels import Mode
from cold_kernels.reference import contrast_scores


def take_given(step: Step, result: StepResult) -> None:
    """Replaces what rows have picked by what they were given; its log-probabilities are not known.

    A row whose logits are not finite stays as it is.

    Mutates: result.
    """
    for row in _given_rows(step, result):
        result.picks[row, Pick.TOKEN] = step.draws[row, Draw.GIVEN]
        result.log_probs[row] = np.nan


def score_given(step: Step, expert: Tensor, base: Tensor, result: StepResult) -> None:
    """Fills in `LogProb.DECODING` of the rows that have taken a given token.

    Args:
        step: the step that gave the logits.
        expert: [E, V] logits of the emitting rows.
        base: [E, V] likewise.
        result: with the readers' own log-probabilities.

    Mutates: result.
    """
    for row in _given_rows(step, result):
        mode = Mode(step.draws[row, Draw.MODE])
        log_prob = result.log_probs[row, LogProb.BASE if mode is Mode.BASE else LogProb.EXPERT]
        if mode is Mode.COLD:
            alpha, beta = step.shapes[row, [Shape.ALPHA, Shape.BETA]].tolist()
            e, a = expert[row].float(), base[row].float()  # [V]
            contrasted = _contrasted(e, a, int(step.draws[row, Draw.GIVEN]), alpha, beta)
            log_prob = log_prob if contrasted is None else contrasted
        result.log_probs[row, LogProb.DECODING] = log_prob


def _given_rows(step: Step, result: StepResult) -> npt.NDArray[np.int64]:
    return np.flatnonzero((step.draws[:, Draw.GIVEN] >= 0) & (result.picks[:, Pick.TOKEN] >= 0))


def _contrasted(
    expert: Tensor, base: Tensor, token: int, alpha: float, beta: float
) -> float | None:
    """Log-probability under contrast of logits [V]; None if the token is not valid."""
    mode, alphas, betas = (
        torch.tensor([x], device=expert.device) for x in (Mode.COLD, alpha, beta)
    )
    scores = contrast_scores(expert[None], base[None], mode, alphas, betas)[0]
    valid = scores > -torch.inf
    if not valid[token]:
        return None
    mass = expert[valid].logsumexp(0) - expert.logsumexp(0)
    return float(mass + scores[token] - scores[valid].logsumexp(0))
