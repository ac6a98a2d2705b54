"""Intervals and tests, against known values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cold_eval.statistics import paired_p, summaries


def test_the_paired_test_is_mcnemars_exact_one() -> None:
    # Two-sided binomial tests of p = 1/2, from published tables.
    assert paired_p(0, 0) == 1
    assert paired_p(5, 5) == 1
    assert paired_p(0, 5) == pytest.approx(2 / 32)
    assert paired_p(9, 1) == pytest.approx(2 * 11 / 1024)
    assert paired_p(1, 9) == paired_p(9, 1)
    assert paired_p(400, 300) == pytest.approx(0.000177, abs=2e-5)


def test_the_bootstrap_agrees_with_the_normal_interval_where_that_holds() -> None:
    generator = np.random.default_rng(1)
    greedy = (generator.random(1000) < 0.5).astype(float)
    better = np.maximum(greedy, (generator.random(1000) < 0.1).astype(float))
    found = summaries({"greedy": greedy.tolist(), "x": better.tolist()}, "greedy", seed=3)
    for name, scores in (("greedy", greedy), ("x", better)):
        half = 1.96 * math.sqrt(scores.mean() * (1 - scores.mean()) / 1000)
        assert found[name].low == pytest.approx(scores.mean() - half, abs=0.004)
        assert found[name].high == pytest.approx(scores.mean() + half, abs=0.004)
    gained = better - greedy
    half = 1.96 * gained.std() / math.sqrt(1000)
    assert found["x"].difference_low == pytest.approx(gained.mean() - half, abs=0.004)
    # Pairs vary less than the two alone.
    assert found["x"].difference_high - found["x"].difference_low < 0.05
    assert (found["x"].won, found["x"].lost) == (int(gained.sum()), 0)
    assert found["greedy"].p == 1 and found["greedy"].difference == 0


def test_a_seed_fixes_the_intervals() -> None:
    scores = {"greedy": [0.0, 1, 1, 0, 1, 0, 0.5], "x": [1.0, 1, 0, 0, 1, 0, 0.2]}
    assert summaries(scores, "greedy", 5) == summaries(scores, "greedy", 5)
