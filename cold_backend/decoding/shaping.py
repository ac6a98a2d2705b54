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
    own = step.choices[chosen]
    if len(step.counts):
        _penalise(ops, scores, step, chosen)
    names = ("temperature", "top_k", "top_p", "min_p")
    settings = {name: column(own, name, scores.device) for name in names}
    key = torch.from_numpy(noise_keys(own)).to(scores.device)
    return ops.draw(scores, **settings, key=key, room=room)


def _penalise(ops: Ops, scores: Tensor, step: Step, chosen: Int64Array) -> None:
    """Applies the penalties to the scores [n, V] of some choices: whoever has any is among them."""
    place = np.empty(len(step.choices), np.int64)
    place[chosen] = np.arange(len(chosen))
    own, device = step.choices[chosen], scores.device
    names = ("repetition", "presence", "frequency")
    ops.penalise(
        scores,
        row=torch.from_numpy(place[step.counts["choice"]]).to(device),
        token=column(step.counts, "token", device),
        times=column(step.counts, "times", device),
        **{name: column(own, f"{name}_penalty", device) for name in names},
    )
