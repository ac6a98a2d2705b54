"""How sure a difference is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
_BLOCK = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A decoding's scores on the items of a task.

    Attributes:
        score: the mean.
        low: of its 95 % bootstrap interval.
        high: likewise.
        difference: from greedy's.
        difference_low: of its 95 % interval, resampled in pairs.
        difference_high: likewise.
        won: items with a higher score than greedy's.
        lost: items with a lower one.
        p: of the exact paired test, see `paired_p`.
    """

    items: int
    score: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    won: int
    lost: int
    p: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def paired_p(won: int, lost: int) -> float:
    """The exact McNemar test, two-sided: how probable so uneven a split is by chance.

    For scores that are not just right or wrong it is the sign test over the items that differ.
    """
    n, k = won + lost, min(won, lost)
    tail: int = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, 2 * tail / 2**n)


def summaries(
    scores: Mapping[str, Sequence[float]], reference: str, seed: int
) -> dict[str, Summary]:
    """Sums up decodings.

    Args:
        scores: by decoding, of the same items in the same order.
        reference: the decoding that the others are compared with.
        seed: of the resampling; the same for all, so that differences are resampled in pairs.
    """
    table = np.array([*scores.values()], np.float64)  # [D, n]
    means = bootstrap_means(table, seed)  # [B, D]
    at = [*scores].index(reference)
    return {
        name: _summary(table[row], table[at], means[:, row], means[:, at])
        for row, name in enumerate(scores)
    }


def bootstrap_means(table: Floats, seed: int) -> Floats:
    """[B, D] means of the rows of a table [D, n] over items drawn with replacement."""
    generator = np.random.default_rng(seed)
    n = table.shape[1]
    blocks = []
    for _ in range(RESAMPLES // _BLOCK):
        counts = generator.multinomial(n, np.full(n, 1 / n), size=_BLOCK)  # [block, n]
        blocks.append(counts @ table.T / n)
    return np.concatenate(blocks)


def _summary(mine: Floats, reference: Floats, means: Floats, others: Floats) -> Summary:
    won, lost = int((mine > reference).sum()), int((mine < reference).sum())
    low, high = interval(means)
    difference_low, difference_high = interval(means - others)
    return Summary(
        items=len(mine),
        score=float(mine.mean()),
        low=low,
        high=high,
        difference=float(mine.mean() - reference.mean()),
        difference_low=difference_low,
        difference_high=difference_high,
        won=won,
        lost=lost,
        p=paired_p(won, lost),
    )


def interval(values: Floats) -> tuple[float, float]:
    """The middle 95 %."""
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
