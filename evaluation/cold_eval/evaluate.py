"""Runs tasks x decodings, and goes on where an earlier run stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from cold_eval.decodings import Decoding
from cold_eval.items import Task
from cold_eval.results import Journal, Result, missing

_INTERVAL_S = 5


class Runner(Protocol):
    """Decodes a task's items."""

    def run(
        self, task: Task, decodings: Sequence[Decoding], wanted: dict[str, list[str]]
    ) -> Iterator[Result]:
        """Yields results as they are ready.

        Args:
            wanted: names of decodings by item; only these.
        """
        ...


class Progress:
    """Says how far a run is, at most every five seconds.

    Args:
        total: results to come.
        say: gets each text.
    """

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self._total = total
        self._say = say
        self._done = 0
        self._begun_s = time.monotonic()
        self._said_s = self._begun_s

    def advance(self, count: int, label: str) -> None:
        """Counts results."""
        self._done += count
        now_s = time.monotonic()
        if now_s < self._said_s + _INTERVAL_S and self._done < self._total:
            return
        self._said_s = now_s
        rate = self._done / max(now_s - self._begun_s, 1e-9)
        left_s = (self._total - self._done) / rate
        self._say(
            f"{label}: {self._done} of {self._total} answers, {rate:.1f}/s, "
            f"{_duration(left_s)} left"
        )


def evaluate(
    load: Callable[[], Runner],
    tasks: Sequence[Task],
    decodings: Sequence[Decoding],
    journal: Journal,
    say: Callable[[str], None],
) -> None:
    """Decodes and scores whatever the journal lacks.

    Args:
        load: makes the runner, if there is anything to do.
        say: is told how far it is.

    Raises:
        EvaluationError: an item cannot be decoded.
    """
    work = []
    for task in tasks:
        possible = _possible(task, decodings)
        names = [decoding.name for decoding in possible]
        wanted = missing(journal.done, task.name, [item.id for item in task.items], names)
        work.append((task, possible, wanted))
    total = sum(len(names) for _, _, wanted in work for names in wanted.values())
    if not total:
        return
    runner, progress = load(), Progress(total, say)
    for task, possible, wanted in work:
        if wanted:
            for result in runner.run(task, possible, wanted):
                journal.add(result)
                progress.advance(len(result.decodings), task.name)


def _possible(task: Task, decodings: Sequence[Decoding]) -> list[Decoding]:
    """Those that a task can be decoded with: choices are scored, not generated."""
    if not task.is_choice:
        return [*decodings]
    return [d for d in decodings if d.kind != "beam" and d.samples == 1]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
