"""Paired comparison of two decodings on the same items."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

RESAMPLES = 2000


@dataclass(frozen=True)
class Comparison:
    """Of a decoding with greedy; shares of items, 0 to 1.

    Attributes:
        low, high: 95 % bootstrap interval of `gain` over items.
        p: exact two-sided McNemar test.
    """

    items: int
    accuracy: float
    reference: float
    won: int
    lost: int
    low: float
    high: float
    p: float

    @property
    def gain(self) -> float:
        return self.accuracy - self.reference


def compare(right: str, reference: str) -> Comparison:
    """From one character for each item, 1 where the answer was right."""
    count = len(right)
    changes = [int(x) - int(y) for x, y in zip(right, reference, strict=True)]
    won, lost = changes.count(1), changes.count(-1)
    low, high = interval(won, lost, count)
    return Comparison(
        items=count,
        accuracy=right.count("1") / count,
        reference=reference.count("1") / count,
        won=won,
        lost=lost,
        low=low,
        high=high,
        p=mcnemar(won, lost),
    )


def mcnemar(won: int, lost: int) -> float:
    """Whether as many are won as lost by chance: two-sided binomial test."""
    changed = won + lost
    tail: int = sum(math.comb(changed, k) for k in range(min(won, lost) + 1))
    return min(1.0, math.ldexp(tail, 1 - changed))


def interval(won: int, lost: int, count: int) -> tuple[float, float]:
    """Bootstrap over items; how many of a sample are won and lost is all that matters."""
    generator = random.Random(0)
    kinds, weights = (1, -1, 0), (won, lost, count - won - lost)
    gains = sorted(
        sum(generator.choices(kinds, weights, k=count)) / count for _ in range(RESAMPLES)
    )
    return gains[RESAMPLES // 40], gains[-RESAMPLES // 40 - 1]
