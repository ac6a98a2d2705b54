"""Finds alpha and beta, or the strength of the adapter, and whether they are worth using at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cold_eval.amateurs import BASE
from cold_eval.decodings import GREEDY, Decoding
from cold_eval.errors import EvaluationError
from cold_eval.statistics import Floats, Summary, summaries

FOLDS = 5
SIGNIFICANT = 0.05  # of all trials together
MIN_ITEMS = 20


@dataclass(frozen=True, slots=True)
class Trial:
    """One way that may answer better than greedy.

    Attributes:
        best: the point with the highest score on all items; greedy if none scores higher.
        answers: [n] scores of the whole procedure, each item decoded with the point that was the
            best on the folds without it.
        checked: these against greedy's: what tuning gains on items that it has not seen.
    """

    best: Decoding
    answers: Floats
    checked: Summary

    def gains(self, level: float) -> bool:
        """Whether the gain is one that the paired test does not take for noise."""
        return self.checked.difference > 0 and self.checked.p < level


@dataclass(frozen=True, slots=True)
class Verdict:
    """What tuning found.

    Attributes:
        decoding: to be used: the best point of what wins, or greedy.
        cold: the trial of contrast.
        scaled: that of greedy with another strength of the adapter; None if there was none.
        duel: contrast against that; None likewise.
        scores: of every decoding on all items.
    """

    decoding: Decoding
    cold: Trial
    scaled: Trial | None
    duel: Summary | None
    scores: dict[str, float]

    @property
    def reason(self) -> str:
        """The verdict as a sentence, and a line for each thing else that was compared."""
        lines = [self._sentence()]
        if self.scaled and self.duel:
            if self.decoding == self.scaled.best != GREEDY:
                lines.append(f"CoLD: {_gain(self.cold.checked)}")
            else:
                lines.append(f"greedy with another lora_scale: {_gain(self.scaled.checked)}")
            lines.append(f"CoLD against greedy with another lora_scale: {_gain(self.duel)}")
        return "\n".join(lines)

    def summaries(self) -> dict[str, Any]:
        """The comparisons, as JSON has them."""
        found = {"cold": self.cold.checked}
        if self.scaled and self.duel:
            found |= {"scaled": self.scaled.checked, "cold_against_scaled": self.duel}
        return {name: summary.as_json() for name, summary in found.items()}

    def _sentence(self) -> str:
        gain = _gain(self.cold.checked)
        if self.decoding.kind == "cold":
            return f"use CoLD with {_described(self.decoding)}: {gain}"
        if self.scaled and self.decoding != GREEDY:
            scale = self.decoding.lora_scale
            return f"use greedy with lora_scale {scale:g}: {_gain(self.scaled.checked)}"
        if self.cold.best == GREEDY or self.cold.checked.difference <= 0:
            return f"do not use CoLD here: it answers no better than greedy, {gain}"
        return f"do not use CoLD here: the difference is within noise, {gain}"


def tune(points: Sequence[Decoding], scores: Mapping[str, Sequence[float]], seed: int) -> Verdict:
    """Chooses a point.

    Those of the grid are one trial, greedy with other strengths of the adapter, if there are any,
    a second. In each a point is only taken if it scores higher than greedy; of equal ones the
    mildest wins. A trial counts if cross-validation shows a gain that the paired test does not
    take for noise. If both do, contrast has to beat the other in the same way: it computes two
    rows for each token where greedy computes one.

    Args:
        points: to choose from.
        scores: by name, greedy's among them, of the same items in the same order.
        seed: of the folds and intervals.

    Raises:
        EvaluationError: there are too few items.
    """
    count = len(scores[GREEDY.name])
    if count < MIN_ITEMS:
        raise EvaluationError(f"task: tuning needs at least {MIN_ITEMS} items, got {count}")
    grid = sorted(
        (point for point in points if point.kind == "cold"),
        key=lambda point: (point.beta or 0, -(point.alpha or 0)),
    )
    strengths = sorted(
        (point for point in points if point.kind == "greedy"),
        key=lambda point: abs(point.lora_scale - 1),
    )
    cold = _try(grid, scores, seed)
    scaled = _try(strengths, scores, seed) if strengths else None
    duel = _against(cold.answers, scaled.answers, seed) if scaled else None
    return Verdict(
        decoding=_winner(cold, scaled, duel),
        cold=cold,
        scaled=scaled,
        duel=duel,
        scores={p.name: float(np.mean(scores[p.name])) for p in (GREEDY, *points)},
    )


def _try(points: Sequence[Decoding], scores: Mapping[str, Sequence[float]], seed: int) -> Trial:
    """Tunes among points, the mildest first."""
    candidates = [GREEDY, *points]
    table = np.array([scores[point.name] for point in candidates], np.float64)  # [P, n]
    count = table.shape[1]
    answers = np.empty(count)
    for fold in np.array_split(np.random.default_rng(seed).permutation(count), FOLDS):
        rest = np.delete(table, fold, axis=1)
        answers[fold] = table[_best(rest)][fold]
    return Trial(candidates[_best(table)], answers, _against(answers, table[0], seed))


def _winner(cold: Trial, scaled: Trial | None, duel: Summary | None) -> Decoding:
    if scaled is None or duel is None:
        return cold.best if cold.gains(SIGNIFICANT) else GREEDY
    # Two trials may each be lucky.
    level = SIGNIFICANT / 2
    if not scaled.gains(level):
        return cold.best if cold.gains(level) else GREEDY
    beaten = duel.difference > 0 and duel.p < SIGNIFICANT
    return cold.best if cold.gains(level) and beaten else scaled.best


def _against(mine: Floats, others: Floats, seed: int) -> Summary:
    """Scores compared with others of the same items."""
    found = {"others": others.tolist(), "mine": mine.tolist()}
    return summaries(found, "others", seed)["mine"]


def _best(table: Floats) -> int:
    """Row with the highest mean; of equal ones the first."""
    return int(table.mean(axis=1).round(12).argmax())


def _described(point: Decoding) -> str:
    """A point of the grid in words."""
    words = f"alpha {point.alpha:g}, beta {point.beta:g}"
    words += " by divergence" if point.by_divergence else ""
    return words if point.amateur == BASE else f"{words}, against {point.amateur}"


def _gain(s: Summary) -> str:
    return (
        f"{100 * s.difference:+.1f} points on items that it was not tuned on "
        f"(95 %: {100 * s.difference_low:+.1f} to {100 * s.difference_high:+.1f}; "
        f"{s.won} won, {s.lost} lost, p = {s.p:.2g})"
    )
