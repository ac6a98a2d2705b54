"""Finds alpha and beta, and whether they are worth using at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cold_eval.decodings import GREEDY, Decoding
from cold_eval.errors import EvaluationError
from cold_eval.statistics import Floats, Summary, summaries

FOLDS = 5
SIGNIFICANT = 0.05
MIN_ITEMS = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """What tuning found.

    Attributes:
        decoding: to be used: the best point of the grid, or greedy.
        best: the point with the highest score on all items.
        scores: of every decoding on all items.
        checked: of the whole procedure, each item decoded with the point that was the best on the
            folds without it: what tuning gains on items that it has not seen.
    """

    decoding: Decoding
    best: Decoding
    scores: dict[str, float]
    checked: Summary

    @property
    def reason(self) -> str:
        """The verdict as a sentence."""
        c = self.checked
        gain = (
            f"{100 * c.difference:+.1f} points on items that it was not tuned on "
            f"(95 %: {100 * c.difference_low:+.1f} to {100 * c.difference_high:+.1f}; "
            f"{c.won} won, {c.lost} lost, p = {c.p:.2g})"
        )
        if self.decoding.kind == "cold":
            alpha, beta = self.decoding.alpha, self.decoding.beta
            return f"use CoLD with alpha {alpha:g}, beta {beta:g}: {gain}"
        if self.best == GREEDY or c.difference <= 0:
            return f"do not use CoLD here: it answers no better than greedy, {gain}"
        return f"do not use CoLD here: the difference is within noise, {gain}"


def tune(points: Sequence[Decoding], scores: Mapping[str, Sequence[float]], seed: int) -> Verdict:
    """Chooses a point of the grid.

    A point is only taken if it scores higher than greedy; of equal ones the smallest beta wins.
    Contrast is only used if cross-validation shows a gain that the paired test does not take for
    noise.

    Args:
        points: of the grid.
        scores: by name, greedy's among them, of the same items in the same order.
        seed: of the folds and intervals.

    Raises:
        EvaluationError: there are too few items.
    """
    by_strength = sorted(points, key=lambda point: (point.beta or 0, -(point.alpha or 0)))
    candidates = [GREEDY, *by_strength]
    table = np.array([scores[point.name] for point in candidates], np.float64)  # [P, n]
    count = table.shape[1]
    if count < MIN_ITEMS:
        raise EvaluationError(f"task: tuning needs at least {MIN_ITEMS} items, got {count}")
    checked = np.empty(count)
    for fold in np.array_split(np.random.default_rng(seed).permutation(count), FOLDS):
        rest = np.delete(table, fold, axis=1)
        checked[fold] = table[_best(rest)][fold]
    found = {GREEDY.name: table[0].tolist(), "tuned": checked.tolist()}
    summary = summaries(found, GREEDY.name, seed)["tuned"]
    best = candidates[_best(table)]
    gains = summary.difference > 0 and summary.p < SIGNIFICANT
    return Verdict(
        decoding=best if gains else GREEDY,
        best=best,
        scores={p.name: float(row.mean()) for p, row in zip(candidates, table, strict=True)},
        checked=summary,
    )


def _best(table: Floats) -> int:
    """Row with the highest mean; of equal ones the first."""
    return int(table.mean(axis=1).round(12).argmax())
