"""The best tokens of rows that are beams, and their log-probabilities."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cold_backend.contract import (
    Draw,
    Float32Array,
    Int64Array,
    Option,
    OptionScore,
    Reads,
    Shape,
    Step,
    emitting,
    reading,
)
from cold_kernels import Mode
from cold_kernels.reference import contrast_scores

_NEVER = float("-inf")


def find_options(step: Step, expert: Tensor, base: Tensor) -> tuple[Int64Array, Float32Array]:
    """The options of the rows that want some; none, at no cost, where no row is a beam.

    In mode EXPERT they rank by the expert's log-probabilities, banned tokens left out; in mode COLD
    by those of the contrast over the valid set of what is not banned.

    Args:
        step: the step that gave the logits.
        expert: [E, V] logits of the emitting rows.
        base: [E, V] likewise.

    Returns:
        `StepResult.options` and `StepResult.option_scores`.
    """
    wanted = step.draws[:, Draw.OPTIONS]
    rows = np.flatnonzero(wanted)
    if not len(rows):
        return np.empty((0, len(Option)), np.int64), np.empty((0, len(OptionScore)), np.float32)
    picked = torch.from_numpy(rows).to(expert.device)
    e, a = expert[picked].float(), base[picked].float()  # [n, V]
    scores, tokens = _ranked(step, rows, e, a).topk(min(int(wanted.max()), e.shape[1]))  # [n, k]
    columns = {
        OptionScore.RANKED: scores,
        OptionScore.EXPERT: _log_probs(step, rows, Reads.EXPERT, e, tokens),
        OptionScore.BASE: _log_probs(step, rows, Reads.BASE, a, tokens),
    }
    found = torch.stack([columns[column] for column in OptionScore], dim=2).cpu().numpy()
    kept = (found[..., OptionScore.RANKED] > _NEVER) & (
        np.arange(found.shape[1]) < wanted[rows, None]
    )
    of_row = np.broadcast_to(rows[:, None], kept.shape)
    options = np.stack((of_row[kept], tokens.cpu().numpy()[kept]), axis=1)
    return options, found[kept]


def _ranked(step: Step, rows: Int64Array, expert: Tensor, base: Tensor) -> Tensor:
    """Log-probabilities [n, V], -inf for what must not come."""
    mode = torch.from_numpy(step.draws[rows, Draw.MODE]).to(expert.device)
    shapes = torch.from_numpy(step.shapes[rows]).to(expert.device)
    banned = torch.from_numpy(_bans(step, rows)).to(expert.device)
    allowed = expert.index_put(tuple(banned), expert.new_tensor(_NEVER))
    scores = contrast_scores(allowed, base, mode, shapes[:, Shape.ALPHA], shapes[:, Shape.BETA])
    whole = torch.where(mode[:, None] == Mode.COLD, scores, expert)
    return scores - whole.logsumexp(dim=1, keepdim=True)


def _bans(step: Step, rows: Int64Array) -> Int64Array:
    """[2, m] where in the logits of the rows banned tokens are."""
    mine = step.bans[np.isin(step.bans[:, 0], rows)]
    return np.stack((np.searchsorted(rows, mine[:, 0]), mine[:, 1]))


def _log_probs(
    step: Step, rows: Int64Array, reader: Reads, logits: Tensor, tokens: Tensor
) -> Tensor:
    """A reader's own log-probabilities of tokens [n, k]; NaN in rows that do not read it."""
    unread = ~reading(step.rows, reader)[emitting(step.rows)][rows]
    log_probs = logits.gather(1, tokens) - logits.logsumexp(dim=1, keepdim=True)
    return log_probs.masked_fill(torch.from_numpy(unread).to(logits.device)[:, None], torch.nan)
