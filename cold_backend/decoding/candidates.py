"""The best tokens for beams to go on with, and their log-probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cold_backend.contract import CANDIDATE, Step, Table, table
from cold_backend.decoding.logits import NEVER, Logits
from cold_kernels import Mode, Ops


def rank_candidates(ops: Ops, step: Step, logits: Logits, allowed: Logits) -> tuple[Tensor, ...]:
    """The best tokens of the choices that want candidates; nothing, at no cost, where none does.

    In mode EXPERT they rank by the expert's log-probabilities, banned tokens left out; in mode COLD
    by those of the contrast over the valid set of what is not banned.

    Args:
        ops: the kernels.
        step: the step that gave the logits.
        logits: of the choices.
        allowed: the same, banned tokens left out.

    Returns:
        What they rank by, the tokens, the expert's log-probabilities, the base's; all [n, k], best
        first.
    """
    wanted = step.choices["candidates"]
    beams = np.flatnonzero(wanted)
    if not len(beams):
        return ()
    own = logits.take(beams)
    log_probs = _ranked(ops, own, allowed.take(beams))
    best, tokens = log_probs.topk(min(int(wanted.max()), log_probs.shape[1]))  # [n, k]
    return best, tokens, ops.log_probs(own.expert, tokens), ops.log_probs(own.base, tokens)


def candidates_of(step: Step, ranked: list[npt.NDArray[Any]]) -> Table:
    """The candidates [n] of CANDIDATE, best first, from what `rank_candidates` found."""
    if not ranked:
        return table(CANDIDATE, [])
    best, tokens, expert, base = ranked
    wanted = step.choices["candidates"]
    beams = np.flatnonzero(wanted)
    kept = (best > NEVER) & (np.arange(best.shape[1]) < wanted[beams, None])
    found = np.empty(int(kept.sum()), CANDIDATE)
    found["choice"] = np.broadcast_to(beams[:, None], kept.shape)[kept]
    found["token"], found["log_prob"] = tokens[kept], best[kept]
    for reader, read in (("expert", expert), ("base", base)):
        unread = step.choices[reader][beams] < 0
        found[f"{reader}_log_prob"] = np.where(unread[:, None], np.float32(np.nan), read)[kept]
    return found


def _ranked(ops: Ops, own: Logits, allowed: Logits) -> Tensor:
    """Log-probabilities [n, V], -inf for what must not come."""
    scores = ops.contrast_scores(
        allowed.expert, allowed.base, mode=own.mode, alpha=own.alpha, beta=own.beta
    )
    whole = torch.where(own.mode[:, None] == Mode.COLD, scores, own.expert.float())
    return scores - whole.logsumexp(dim=1, keepdim=True)
