"""Choices with penalties, top_k, top_p or min_p: what the fused op does not do.

They are made one by one in torch, on the tokens that are left to choose from: under contrast that
is the small valid set.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cold_backend.contract import NONE, Int64Array, Step, Table
from cold_backend.decoding.keys import noise_keys
from cold_backend.decoding.logits import NEVER, Logits
from cold_kernels import Ops
from cold_kernels.noise import gumbel


def shaped_choices(step: Step) -> Int64Array:
    """Which choices are made here, ascending."""
    c = step.choices
    narrowed = (c["top_k"] > 0) | (c["top_p"] < 1) | (c["min_p"] > 0)
    shaped = narrowed & (c["temperature"] > 0)
    shaped[step.counts["choice"]] = True
    return np.flatnonzero(shaped)


def choose_shaped(ops: Ops, step: Step, chosen: Int64Array, logits: Logits) -> list[int]:
    """The tokens of some choices, NONE where there is nothing left to choose from.

    Args:
        ops: the kernels.
        step: the step that gave the logits.
        chosen: [n] places of the choices.
        logits: of all choices, banned tokens left out.
    """
    if not len(chosen):
        return []
    of = logits.take(chosen)
    scores = ops.contrast_scores(of.expert, of.base, mode=of.mode, alpha=of.alpha, beta=of.beta)
    tokens = []
    for place, own in zip(chosen, scores, strict=True):
        ids = (own > NEVER).nonzero()[:, 0]  # [n]
        choice, counts = step.choices[place], step.counts[step.counts["choice"] == place]
        tokens.append(_draw(ids, _penalise(ids, own[ids], counts, choice), choice))
    return tokens


def _penalise(ids: Tensor, scores: Tensor, counts: Table, choice: np.void) -> Tensor:
    """Applies the penalties of one choice to the scores [n] of its tokens [n], which ascend.

    Repetition as in CTRL (arXiv 1909.05858) over prompt and output: a positive score is divided, a
    negative one multiplied. Presence and frequency over the output are subtracted.
    """
    if not len(counts) or not len(ids):
        return scores
    tokens, times = (
        torch.from_numpy(counts[name].copy()).to(scores.device) for name in ("token", "times")
    )
    places = torch.searchsorted(ids, tokens).clamp(max=len(ids) - 1)
    left = ids[places] == tokens
    places, times = places[left], times[left]
    seen = scores[places]
    repetition = float(choice["repetition_penalty"])
    seen = torch.where(seen > 0, seen / repetition, seen * repetition)
    seen = seen - times * float(choice["frequency_penalty"])
    seen = seen - (times > 0) * float(choice["presence_penalty"])
    return scores.index_copy(0, places, seen)


def _draw(ids: Tensor, scores: Tensor, choice: np.void) -> int:
    """Takes the best of the scores [n] of the tokens [n], or samples.

    Sampling: temperature, then min_p, top_k, top_p, then noise.
    """
    if not len(ids):
        return NONE
    temperature = float(choice["temperature"])
    if temperature == 0:
        return int(ids[scores.argmax()])
    ordered, order = ((scores - scores.max()) / temperature).sort(descending=True, stable=True)
    probs = ordered.softmax(0)
    keep = probs >= float(choice["min_p"]) * probs[0]
    top_k = int(choice["top_k"])
    if top_k > 0:
        keep[top_k:] = False
    probs = (probs * keep) / (probs * keep).sum()
    # A token stays if those before it hold less than top_p: the first always does.
    keep &= (probs.cumsum(0) - probs) < float(choice["top_p"])
    kept = ids[order[keep]]
    key = torch.from_numpy(noise_keys(choice.reshape(1))).to(scores.device)
    drawn = (ordered[keep] + gumbel(key, kept.int())[0]).argmax()
    return int(kept[drawn])
