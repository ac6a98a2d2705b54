"""How a token is chosen, the slow and obvious way: Python's integers, float64, row after row.

Shares no code with cold_backend or cold_kernels. Where rounding may decide, more than one token is
right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
NEVER = -math.inf
# Relative error of sums and exponentials that an implementation may have.
ERROR = 2e-5
_WORD, _LONG = 2**32, 2**64


@dataclass(frozen=True)
class How:
    """The settings of a choice."""

    mode: str = "expert"  # or cold, base
    alpha: float = 0.1
    beta: float = 0.5
    biases: Mapping[int, float] = field(default_factory=dict)  # -inf for a ban
    counts: Mapping[int, int] = field(default_factory=dict)
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    temperature: float = 0.0
    min_p: float = 0.0
    top_k: int = 0
    top_p: float = 1.0


def noise_key(seed: int, position: int) -> tuple[int, int]:
    """The two words that a choice's noise is made from."""
    word = _splitmix((_splitmix(seed) + position * 0x9E3779B97F4A7C15) % _LONG)
    return word % _WORD, word // _WORD


def noise(key: tuple[int, int], vocab: int) -> Floats:
    """Gumbel noise of all tokens."""
    found = []
    for token in range(vocab):
        bits = _lowbias(_lowbias(token ^ key[0]) ^ key[1])
        found.append(-math.log(-math.log((bits >> 8 | 1) / 2**24)))
    return np.array(found)


def scores_of(expert: Floats, base: Floats, how: How) -> Floats:
    """What a token is chosen by, -inf for what may not be; biases, contrast, penalties."""
    expert, base = expert.copy(), base.copy()
    for token, bias in how.biases.items():
        expert[token] += bias
        base[token] += bias
    scores = {"expert": expert, "base": base}.get(how.mode)
    if scores is None:
        valid = (expert >= expert.max() + math.log(how.alpha)) & (expert > NEVER)
        scores = np.full(len(expert), NEVER)
        scores[valid] = (expert + how.beta * (expert - base))[valid]
    for token, times in how.counts.items():
        score = scores[token]
        score = score / how.repetition_penalty if score > 0 else score * how.repetition_penalty
        score -= times * how.frequency_penalty
        scores[token] = score - (times > 0) * how.presence_penalty
    return scores


def right_tokens(scores: Floats, gumbel: Floats, how: How) -> set[int]:
    """The tokens that may come of scores; none if nothing is left."""
    if scores.max() == NEVER:
        return set()
    if how.temperature == 0:
        return _best(scores, scores > NEVER)
    z = np.where(scores == scores.max(), 0, scores - scores.max()) / how.temperature
    off = (1 - ERROR, 1.0, 1 + ERROR)
    found = set()
    for min_p in {how.min_p * by for by in off}:
        for top_p in {how.top_p if how.top_p == 1 else how.top_p * by for by in off}:
            found |= _best(z + gumbel, left_by_filters(z, how.top_k, top_p, min_p))
    return found


def left_by_filters(z: Floats, top_k: int, top_p: float, min_p: float) -> npt.NDArray[np.bool_]:
    """Which tokens stay; z is how far their scores are below the best, in temperatures."""
    left = np.zeros(len(z), np.bool_)
    order = [token for token in np.argsort(-z, kind="stable") if z[token] > NEVER]
    order = [token for token in order if math.exp(z[token]) >= min(min_p, 1.0)]
    order = order[: top_k or None]
    mass = sum(math.exp(z[token]) for token in order)
    before = 0.0
    for token in order:
        if top_p < 1 and before >= top_p * mass:
            break
        left[token] = True
        before += math.exp(z[token])
    return left


def _best(keys: Floats, left: npt.NDArray[np.bool_]) -> set[int]:
    highest = keys[left].max()
    close = keys >= highest - 1e-5 * (1 + abs(highest)) if np.isfinite(highest) else keys == highest
    exact = np.flatnonzero(left & (keys == highest))[0]
    return {int(exact), *(int(t) for t in np.flatnonzero(left & close & (keys != highest)))}


def _lowbias(x: int) -> int:
    x = (x ^ x >> 16) * 0x7FEB352D % _WORD
    x = (x ^ x >> 15) * 0x846CA68B % _WORD
    return x ^ x >> 16


def _splitmix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % _LONG
    x = (x ^ x >> 27) * 0x94D049BB133111EB % _LONG
    return x ^ x >> 31
