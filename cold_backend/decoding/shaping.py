"""Choices with penalties, top_k, top_p or min_p, all of a step at once.

They look at the scores of whole rows, which under contrast are those of the valid set alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cold_backend.contract import Int64Array, Step
from cold_backend.decoding.keys import noise_keys
from cold_backend.decoding.logits import Logits, column
from cold_kernels import Drawn, Ops


def shaped_choices(step: Step) -> Int64Array:
    """Which choices are made here, ascending."""
    c = step.choices
    narrowed = (c["top_k"] > 0) | (c["top_p"] < 1) | (c["min_p"] > 0)
    shaped = narrowed & (c["temperature"] > 0)
    shaped[step.counts["choice"]] = True
    return np.flatnonzero(shaped)


def draw_shaped(ops: Ops, step: Step, chosen: Int64Array, logits: Logits, room: int) -> Drawn:
    """The tokens of some choices; penalties first, then temperature, min_p, top_k, top_p, noise.

    Args:
        ops: the kernels.
        step: the step that gave the logits.
        chosen: [n] places of the choices, ascending.
        logits: of all choices, banned tokens left out.
        room: how many of a row's best tokens need be looked at, see `Draw`.
    """
    of = logits.take(chosen)
    scores = ops.contrast_scores(of.expert, of.base, mode=of.mode, alpha=of.alpha, beta=of.beta)
    _penalise(scores, step, chosen)
    own = step.choices[chosen]
    names = ("temperature", "top_k", "top_p", "min_p")
    settings = {name: column(own, name, scores.device) for name in names}
    key = torch.from_numpy(noise_keys(own)).to(scores.device)
    return ops.draw(scores, **settings, key=key, room=room)


def _penalise(scores: Tensor, step: Step, chosen: Int64Array) -> None:
    """Applies the penalties to the scores [n, V] of some choices, which all have theirs here.

    Repetition as in CTRL (arXiv 1909.05858) over prompt and output: a positive score is divided, a
    negative one multiplied. Presence and frequency over the output are subtracted. What is at -inf
    stays there.
    """
    counts = step.counts
    if not len(counts):
        return
    own = step.choices[counts["choice"]]
    repetition, presence, frequency = (
        column(own, f"{name}_penalty", scores.device)
        for name in ("repetition", "presence", "frequency")
    )
    rows = torch.from_numpy(np.searchsorted(chosen, counts["choice"])).to(scores.device)
    places = rows, column(counts, "token", scores.device)
    times = column(counts, "times", scores.device)
    seen = scores[places]
    seen = torch.where(seen > 0, seen / repetition, seen * repetition)
    seen = seen - times * frequency
    scores[places] = seen - (times > 0) * presence
