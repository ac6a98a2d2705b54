"""Which requests are worth accepting: those that can be served in time."""

from __future__ import annotations

import math

from cold_backend.errors import OverloadedError

_SMOOTHING = 0.1  # weight of the newest value


class _Average:
    """Of a quantity that changes slowly; 0 before the first value."""

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, value: float) -> None:
        self.value += (value - self.value) * (_SMOOTHING if self.value else 1)


class Admission:
    """Refuses early what could not be served in time.

    A sequence waits for as many slots as there are sequences ahead. They become free at random, so
    of the time that k of them take a standard deviation above the mean is counted: (k + sqrt(k)) x
    the mean interval. The answer takes what answers took lately, to their first token and for each
    further one, for as large a share of `max_tokens` as they used. What need not wait is always
    tried: if it were not, nothing more would be learnt.

    Args:
        max_queue: sequences that may wait.
        max_wait_s: seconds that a sequence may wait.
    """

    def __init__(self, max_queue: int, max_wait_s: float) -> None:
        self.max_wait_s = max_wait_s
        self._max_queue = max_queue
        self._released_s: float | None = None
        self._interval_s = _Average()
        self._prefill_s = _Average()
        self._token_s = _Average()
        self._share = _Average()

    def check(self, *, waiting: int, ahead: int, max_tokens: int, deadline_s: float) -> None:
        """Refuses a sequence if it cannot be served in time.

        Args:
            waiting: sequences in the queue.
            ahead: slots that must become free before it has one.
            max_tokens: that it may generate.
            deadline_s: seconds that the client gives it.

        Raises:
            OverloadedError: the queue is full, the wait would be too long, or the answer too late.
        """
        interval_s = self._interval_s.value
        if waiting >= self._max_queue:
            raise OverloadedError(
                f"the queue is full: {waiting} requests are waiting", waiting * interval_s
            )
        wait_s = (ahead + math.sqrt(ahead)) * interval_s
        if wait_s > self.max_wait_s:
            raise OverloadedError(
                f"the wait could be {wait_s:.1f} s, more than {self.max_wait_s:g} s",
                wait_s - self.max_wait_s,
            )
        answer_s = self._prefill_s.value + self._share.value * max_tokens * self._token_s.value
        if ahead and wait_s + answer_s > deadline_s:
            raise OverloadedError(
                f"the answer could take {wait_s + answer_s:.1f} s, more than deadline_s, "
                f"{deadline_s:g} s",
                wait_s,
            )

    def waited_too_long(self, waiting: int) -> OverloadedError:
        """The error for a sequence that has waited `max_wait_s`, one of `waiting`."""
        return OverloadedError(
            f"no slot became free within {self.max_wait_s:g} s", waiting * self._interval_s.value
        )

    def slot_released(self, now_s: float, *, waiting: bool) -> None:
        """Learns from a slot that became free; `waiting` says whether a sequence waited for it."""
        if self._released_s is not None:
            self._interval_s.add(now_s - self._released_s)
        self._released_s = now_s if waiting else None

    def answered(self, prefill_s: float, decode_s: float, tokens: int, max_tokens: int) -> None:
        """Learns from a complete answer.

        Args:
            prefill_s: from its slot to its first token.
            decode_s: from its first token to its last.
            tokens: generated, of `max_tokens`.
        """
        self._prefill_s.add(prefill_s)
        self._share.add(tokens / max_tokens)
        if tokens > 1:
            self._token_s.add(decode_s / (tokens - 1))
