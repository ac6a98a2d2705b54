"""The best tokens for beams to go on with, and their log-probabilities."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cold_backend.contract import CANDIDATE, Step, Table, table
from cold_backend.decoding.logits import NEVER, Logits, log_probs_of
from cold_kernels import Mode, Ops


def find_candidates(ops: Ops, step: Step, logits: Logits, allowed: Logits) -> Table:
    """The candidates of the choices that want some; none, at no cost, where none is a beam's.

    In mode EXPERT they rank by the expert's log-probabilities, banned tokens left out; in mode COLD
    by those of the contrast over the valid set of what is not banned.

    Args:
        ops: the kernels.
        step: the step that gave the logits.
        logits: of the choices.
        allowed: the same, banned tokens left out.

    Returns:
        [n] of CANDIDATE, best first.
    """
    wanted = step.choices["candidates"]
    beams = np.flatnonzero(wanted)
    if not len(beams):
        return table(CANDIDATE, [])
    own = logits.take(beams)
    log_probs = _ranked(ops, own, allowed.take(beams))
    best, tokens = log_probs.topk(min(int(wanted.max()), log_probs.shape[1]))  # [n, k]
    ranked = best.cpu().numpy()
    kept = (ranked > NEVER) & (np.arange(ranked.shape[1]) < wanted[beams, None])
    found = np.empty(int(kept.sum()), CANDIDATE)
    found["choice"] = np.broadcast_to(beams[:, None], kept.shape)[kept]
    found["token"] = tokens.cpu().numpy()[kept]
    found["log_prob"] = ranked[kept]
    for reader, of in (("expert", own.expert), ("base", own.base)):
        unread = step.choices[reader][beams] < 0
        read = log_probs_of(of, tokens).cpu().numpy()
        found[f"{reader}_log_prob"] = np.where(unread[:, None], np.float32(np.nan), read)[kept]
    return found


def _ranked(ops: Ops, own: Logits, allowed: Logits) -> Tensor:
    """Log-probabilities [n, V], -inf for what must not come."""
    scores = ops.contrast_scores(
        allowed.expert, allowed.base, mode=own.mode, alpha=own.alpha, beta=own.beta
    )
    whole = torch.where(own.mode[:, None] == Mode.COLD, scores, own.expert.float())
    return scores - whole.logsumexp(dim=1, keepdim=True)
