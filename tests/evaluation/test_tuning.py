"""Tuning takes contrast where it helps, and says so where it does not."""

from __future__ import annotations

import numpy as np
import pytest

from cold_eval.decodings import GREEDY, Decoding, grid, scaled
from cold_eval.errors import EvaluationError
from cold_eval.tune import tune

POINTS = grid([0.1, 0.3], [0.25, 0.5, 1.0])
STRENGTHS = scaled([2.0, 1.5, 1.25])


def scores(count: int, gain: dict[str, float], seed: int) -> dict[str, list[float]]:
    """Greedy answers half of the items; a point wins or loses a share of them."""
    generator = np.random.default_rng(seed)
    greedy = generator.random(count) < 0.5
    table = {GREEDY.name: greedy}
    for point in (*POINTS, *STRENGTHS):
        share = gain.get(point.name, 0.0)
        noise = generator.random(count)
        won, lost = noise < 0.03 + max(share, 0), noise > 0.97 + min(share, 0)
        table[point.name] = (greedy | won) & ~lost
    return {name: column.astype(float).tolist() for name, column in table.items()}


def test_a_real_gain_is_found_and_estimated_without_bias() -> None:
    name = POINTS[4].name
    verdict = tune(POINTS, scores(600, {name: 0.25}, 1), seed=0)
    assert verdict.decoding == verdict.cold.best == POINTS[4]
    assert verdict.cold.checked.p < 0.001
    assert verdict.cold.checked.difference == pytest.approx(
        verdict.scores[name] - verdict.scores["greedy"], abs=0.02
    )
    assert verdict.reason.startswith("use CoLD with alpha 0.3, beta 0.5: +")


def test_noise_is_not_taken_for_a_gain() -> None:
    verdicts = [tune(POINTS, scores(300, {}, seed), seed=0) for seed in range(20)]
    # The best of six points looks better than greedy on the items it was chosen on.
    assert np.mean([v.scores[v.cold.best.name] - v.scores["greedy"] for v in verdicts]) > 0.005
    assert sum(v.decoding == GREEDY for v in verdicts) >= 19
    assert abs(np.mean([v.cold.checked.difference for v in verdicts])) < 0.01
    assert all("do not use CoLD here" in v.reason for v in verdicts if v.decoding == GREEDY)


def test_where_every_point_loses_greedy_is_best() -> None:
    verdict = tune(POINTS, scores(200, {p.name: -0.2 for p in POINTS}, 2), seed=0)
    assert verdict.decoding == verdict.cold.best == GREEDY
    assert verdict.cold.checked.difference == 0
    assert "no better than greedy" in verdict.reason


def test_equal_points_yield_the_mildest() -> None:
    same = [1.0] * 30 + [0.0] * 30
    better = [1.0] * 60
    table = {"greedy": same} | {p.name: better for p in POINTS}
    verdict = tune(POINTS, table, seed=0)
    assert (verdict.decoding.alpha, verdict.decoding.beta) == (0.3, 0.25)


def test_few_items_are_refused() -> None:
    with pytest.raises(EvaluationError, match="at least 20 items, got 10"):
        tune(POINTS, scores(10, {}, 1), seed=0)


BETA, SCALE = POINTS[4], STRENGTHS[1]


@pytest.mark.parametrize(
    ("gains", "winner", "said"),
    [
        ({}, GREEDY, "do not use CoLD here: "),
        ({BETA: 0.25}, BETA, "use CoLD with alpha 0.3, beta 0.5: +"),
        ({SCALE: 0.25}, SCALE, "use greedy with lora_scale 1.5: +"),
        ({BETA: 0.25, SCALE: 0.25}, SCALE, "use greedy with lora_scale 1.5: +"),
        ({BETA: 0.45, SCALE: 0.15}, BETA, "use CoLD with alpha 0.3, beta 0.5: +"),
        ({BETA: 0.15, SCALE: 0.45}, SCALE, "use greedy with lora_scale 1.5: +"),
    ],
    ids=["neither", "contrast", "strength", "both alike", "contrast more", "strength more"],
)
def test_contrast_has_to_beat_a_stronger_adapter(
    gains: dict[Decoding, float], winner: Decoding, said: str
) -> None:
    table = scores(600, {point.name: gain for point, gain in gains.items()}, 3)
    verdict = tune([*POINTS, *STRENGTHS], table, seed=0)
    assert verdict.decoding == winner
    first, other, duel = verdict.reason.splitlines()
    assert first.startswith(said)
    assert other.startswith("CoLD: " if winner == SCALE else "greedy with another lora_scale: ")
    assert duel.startswith("CoLD against greedy with another lora_scale: ")
    assert [*verdict.summaries()] == ["cold", "scaled", "cold_against_scaled"]


def test_two_trials_are_not_luckier_than_one() -> None:
    points = [*POINTS, *STRENGTHS]
    verdicts = [tune(points, scores(300, {}, seed), seed=0) for seed in range(20)]
    assert sum(v.decoding == GREEDY for v in verdicts) >= 19


def test_the_mildest_of_equal_strengths_wins() -> None:
    same, better = [1.0] * 30 + [0.0] * 30, [1.0] * 60
    table = dict.fromkeys([p.name for p in (GREEDY, *POINTS)], same)
    table |= dict.fromkeys([p.name for p in STRENGTHS], better)
    assert tune([*POINTS, *STRENGTHS], table, seed=0).decoding == STRENGTHS[2]
