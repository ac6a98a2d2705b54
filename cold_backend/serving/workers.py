"""Threads for what must not be waited for where requests are accepted."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Workers:
    """A few threads that do jobs, those of the lowest rank first.

    They do not keep the process alive: a job may hang for good.

    Args:
        name: of the threads.
        count: how many.
    """

    def __init__(self, name: str, count: int) -> None:
        self._jobs: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()  # equal ranks: first come, first served
        self._changed = threading.Condition()
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}_{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, rank: float, job: Callable[[], None]) -> None:
        """Has a job done; once they are closed, it is forgotten."""
        with self._changed:
            heapq.heappush(self._jobs, (rank, next(self._numbers), job))
            self._changed.notify()

    def close(self, timeout_s: float) -> None:
        """Forgets the jobs that wait, and lets running ones end, for so long at most."""
        with self._changed:
            self._closing = True
            self._jobs.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout_s)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closing)
                if self._closing:
                    return
                *_, job = heapq.heappop(self._jobs)
            try:
                job()
            except Exception:
                _log.exception("a job failed")
