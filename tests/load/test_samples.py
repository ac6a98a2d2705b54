"""The figures of a load test, and the options that judge them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_tests.samples import KINDS, Sample, Threshold, by_level, figures, parse_slo, table
from load_tests.shapes import Shape, parse_duration_s
from load_tests.workload import Mix, Workload

NUMBERS = st.floats(0.1, 1e5)
SAMPLES = st.builds(
    Sample,
    kind=st.sampled_from(KINDS),
    protocol=st.just("grpc"),
    start_s=st.floats(0, 60),
    ttft_ms=NUMBERS | st.none(),
    latency_ms=NUMBERS,
    output_tokens=st.integers(0, 100),
)


@given(st.lists(SAMPLES, min_size=1, max_size=50))
def test_figures(samples: list[Sample]) -> None:
    found = figures(samples, 10, {"latency_ms": 5000})
    ok = [s for s in samples if s.kind == "ok"]
    assert sum(found[kind] or 0 for kind in KINDS) == found["requests"] == len(samples)
    assert found["output_tokens_per_s"] == pytest.approx(sum(s.output_tokens for s in ok) / 10)
    good = [s for s in ok if s.latency_ms <= 5000]
    assert found["goodput_per_s"] == len(good) / 10
    if ok:
        expected = np.percentile([s.latency_ms for s in ok], 95)
        assert found["latency_ms.p95"] == pytest.approx(expected)
    else:
        assert found["latency_ms.p95"] is None
    assert "latency_ms" in table(found)


def test_itl_leaves_the_first_token_out() -> None:
    sample = Sample("ok", "grpc", 0, ttft_ms=100, latency_ms=400, output_tokens=4)
    assert sample.itl_ms == 100
    assert Sample("ok", "grpc", 0, 100, 400, 1).itl_ms is None
    assert sample.meets({"itl_ms": 100, "ttft_ms": 100})
    assert not sample.meets({"itl_ms": 99})


def test_figures_by_level() -> None:
    shape = Shape("steps", (1, 4), 10)
    samples = [Sample("ok", "grpc", 100 + t, 1, 1, 2) for t in (0, 4, 5, 9, 11)]
    levels = by_level(samples, shape.users, 100, {})
    assert [(level["users"], level["requests"]) for level in levels] == [(1, 2), (4, 2)]


@pytest.mark.parametrize(
    ("text", "crossed"),
    [("error_share > 0.01", True), ("error_share>0.02", False), ("goodput_per_s < 5", False)],
)
def test_thresholds(text: str, crossed: bool) -> None:
    found = {"error_share": 0.02, "goodput_per_s": 5.0}
    assert Threshold.parse(text).is_crossed(found) is crossed


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match="fail-if: must be"):
        Threshold.parse("error_share 3")
    with pytest.raises(ValueError, match="no figure 'eror_share'"):
        Threshold.parse("eror_share > 3").is_crossed({"error_share": 1})
    with pytest.raises(ValueError, match="slo: must be one of ttft_ms"):
        parse_slo("tft:3")
    with pytest.raises(ValueError, match="duration: must be"):
        parse_duration_s("1d")
    with pytest.raises(ValueError, match="levels: constant has one"):
        Shape("constant", (1, 2), 10)
    with pytest.raises(ValueError, match="hang_up: must be"):
        Mix(hang_up=2)


def test_a_missing_figure_crosses() -> None:
    assert Threshold.parse("ttft_ms.p95 > 5").is_crossed({"ttft_ms.p95": None})


def test_shapes() -> None:
    assert [Shape("steps", (1, 2, 4), 30).users(t) for t in (0, 9.9, 10, 29.9, 30)] == [
        *(1, 1, 2, 4),
        None,
    ]
    spike = Shape("spike", (2,), 100)
    assert [spike.users(t) for t in (39, 40, 59, 60)] == [2, 8, 8, 2]
    assert math.isclose(parse_duration_s("1.5m"), 90)


def test_the_same_seed_gives_the_same_calls() -> None:
    def calls(seed: int) -> list[object]:
        workload = Workload(Mix(bad_input=0.3, hang_up=0.3), ["a"], seed)
        return [workload.next() for _ in range(200)]

    assert calls(1) == calls(1)
    assert calls(1) != calls(2)
    mixed = [call for call in calls(1) if call.bad_field]  # type: ignore[attr-defined]
    assert 30 < len(mixed) < 90
