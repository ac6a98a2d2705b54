"""Which requests are worth accepting: those that can be served in time."""

from __future__ import annotations

import math

from cold_backend.errors import OverloadedError

_SMOOTHING = 0.1  # weight of the newest interval


class Admission:
    """Refuses early what would have to wait too long.

    The wait is estimated as the sequences ahead times the mean time between slots that become free
    while others wait for them.

    Args:
        max_queue: sequences that may wait.
        max_wait_s: seconds that a sequence may wait.
    """

    def __init__(self, max_queue: int, max_wait_s: float) -> None:
        self.max_wait_s = max_wait_s
        self._max_queue = max_queue
        self._interval_s = 0.0
        self._released_s: float | None = None

    def check(self, *, waiting: int, ahead: int, deadline_s: float) -> None:
        """Refuses a sequence if it cannot be served in time.

        Args:
            waiting: sequences in the queue.
            ahead: those that would be served first.
            deadline_s: seconds that the client gives it.

        Raises:
            OverloadedError: the queue is full, or the wait would be too long.
        """
        if waiting >= self._max_queue:
            raise OverloadedError(
                f"the queue is full: {waiting} requests are waiting", self._interval_s
            )
        wait_s = ahead * self._interval_s
        limit_s = min(self.max_wait_s, deadline_s)
        if wait_s > limit_s:
            raise OverloadedError(
                f"the wait would be about {math.ceil(wait_s)} s, more than {limit_s:g} s",
                wait_s - limit_s,
            )

    def waited_too_long(self, waiting: int) -> OverloadedError:
        """The error for a sequence that has waited `max_wait_s`, one of `waiting`."""
        return OverloadedError(
            f"no slot became free within {self.max_wait_s:g} s", waiting * self._interval_s
        )

    def slot_released(self, now_s: float, *, waiting: bool) -> None:
        """Learns from a slot that became free; `waiting` says whether a sequence waited for it."""
        if self._released_s is not None:
            interval_s = now_s - self._released_s
            change = interval_s - self._interval_s
            self._interval_s += change * (_SMOOTHING if self._interval_s else 1)
        self._released_s = now_s if waiting else None
