"""Work beside the steps is held back while there are any."""

from __future__ import annotations

import time

import pytest

from cold_backend.adapters.pace import Pace


def work(pace: Pace, seconds: float) -> None:
    """Computes for so long, resting often."""
    end_s = time.thread_time() + seconds
    pace.rest()
    while time.thread_time() < end_s:
        sum(range(1000))
        pace.rest()


def test_it_takes_little_of_the_time_while_steps_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace()
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    work(pace, 0.05)
    assert not slept
    pace.step()
    assert pace.is_busy
    begun_s = time.thread_time()
    work(pace, 0.05)
    worked_s = time.thread_time() - begun_s
    assert 12 * worked_s < sum(slept) < 21 * worked_s
    assert len(slept) > 10
    assert max(slept) <= 0.5
