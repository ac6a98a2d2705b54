"""Which requests are worth accepting: those that can be served in time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, median

from cold_backend.errors import OverloadedError

_SMOOTHING = 0.1  # weight of the newest value
_INTERVALS = 16  # the newest ones, of which the mean is taken
_STEPS = 9  # likewise, the median: some are slow because something is compiled
# Values before anything is refused because of them.
_KNOWN_INTERVALS = 8
_KNOWN_STEPS = 3


class _Average:
    """Of a quantity that changes slowly; 0 before the first value."""

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, value: float) -> None:
        self.value += (value - self.value) * (_SMOOTHING if self.value else 1)


@dataclass(frozen=True, slots=True)
class Ahead:
    """What has to happen before a sequence has its slots.

    Attributes:
        slots: that must become free.
        prompt_tokens: that must be fed before so many can be.
    """

    slots: int
    prompt_tokens: int


class Line:
    """Sequences in the order in which they are served, prompts first come first fed.

    Args:
        free: slots that are free.
        running: of each sequence that has slots: how many, and how much of its prompt is to be fed.
    """

    def __init__(self, free: int, running: Iterable[tuple[int, int]]) -> None:
        self._needed = -free
        self._sequences = [*running]
        self._ended = self._released = self._prompt_tokens = 0  # of the first ones

    def join(self, width: int, prompt_tokens: int) -> None:
        """Adds a sequence at the end: the slots that it needs, and its prompt."""
        self._needed += width
        self._sequences.append((width, prompt_tokens))

    def ahead_of(self, width: int) -> Ahead:
        """What is ahead of one that would join now."""
        needed = max(0, self._needed + width)
        while self._released < needed and self._ended < len(self._sequences):
            slots, tokens = self._sequences[self._ended]
            self._ended += 1
            self._released += slots
            self._prompt_tokens += tokens
        return Ahead(needed, self._prompt_tokens)


class Admission:
    """Refuses early what could not be served in time.

    A sequence waits for slots. They become free at random, so of the time that k of them take a
    standard deviation above the mean is counted: (k + sqrt(k)) x the mean interval. Before a slot
    becomes free its sequence's prompt has been fed, so the wait is at least what the prompts take
    that must be fed first, at the rate of the steps that are full of them. The answer takes what
    answers took lately, to their first token and for each further one, for as large a share of
    `max_tokens` as they used. What need not wait is always tried: if it were not, nothing more
    would be learnt.

    Args:
        max_queue: sequences that may wait.
        max_wait_s: seconds that a sequence may wait.
    """

    def __init__(self, max_queue: int, max_wait_s: float) -> None:
        self.max_wait_s = max_wait_s
        self._max_queue = max_queue
        self._released_s: float | None = None
        self._intervals_s: deque[float] = deque(maxlen=_INTERVALS)
        self._fed_s: deque[float] = deque(maxlen=_STEPS)  # for a token of a prompt
        self._warm = False
        self._prefill_s = _Average()
        self._token_s = _Average()
        self._share = _Average()

    def check(
        self,
        *,
        waiting: int,
        ahead: Ahead,
        prompt_tokens: int,
        max_tokens: int,
        left_s: float,
        deadline_s: float,
    ) -> None:
        """Refuses a sequence if it cannot be served in time.

        Args:
            waiting: sequences in the queue.
            ahead: of this one.
            prompt_tokens: that it has, or fewer if that is not known yet.
            max_tokens: that it may generate.
            left_s: seconds that are left of what the client gives it.
            deadline_s: what the client gave it.

        Raises:
            OverloadedError: the queue is full, the wait would be too long, or the answer too late.
        """
        interval_s = self._interval_s()
        if waiting >= self._max_queue:
            raise OverloadedError(
                f"the queue is full: {waiting} requests are waiting", waiting * interval_s
            )
        if not ahead.slots:
            return
        spread = math.sqrt(ahead.slots)
        wait_s = max((ahead.slots + spread) * interval_s, self._feeding_s(ahead.prompt_tokens))
        if wait_s > self.max_wait_s:
            raise self._too_long(wait_s)
        prefill_s = max(self._prefill_s.value, self._feeding_s(prompt_tokens))
        answer_s = prefill_s + self._share.value * max_tokens * self._token_s.value
        if wait_s + answer_s > left_s:
            raise OverloadedError(
                f"the answer could take {wait_s + answer_s:.1f} s, more than deadline_s, "
                f"{deadline_s:g} s",
                wait_s,
            )

    def hopeless(self, ahead: Ahead, *, waited_s: float, left_s: float) -> OverloadedError | None:
        """The error for a sequence that waits and cannot have a slot in time; None if it may.

        It was let in, so only what is certain counts: half the others may be done sooner.
        """
        spread = math.sqrt(ahead.slots)
        freeing_s = (ahead.slots - spread) * self._interval_s()
        wait_s = max(freeing_s, self._feeding_s(ahead.prompt_tokens))
        if waited_s + wait_s > self.max_wait_s:
            return self._too_long(waited_s + wait_s)
        if wait_s > left_s:
            return OverloadedError(
                f"the wait could be {wait_s:.1f} s, more than is left of deadline_s", wait_s
            )
        return None

    def waited_too_long(self, waiting: int) -> OverloadedError:
        """The error for a sequence that has waited `max_wait_s`, one of `waiting`."""
        return OverloadedError(
            f"no slot became free within {self.max_wait_s:g} s", waiting * self._interval_s()
        )

    def slot_released(self, now_s: float, *, waiting: bool) -> None:
        """Learns from a slot that became free; `waiting` says whether a sequence waited for it."""
        if self._released_s is not None:
            self._intervals_s.append(now_s - self._released_s)
        self._released_s = now_s if waiting else None

    def fed(self, prompt_tokens: int, seconds: float) -> None:
        """Learns from a step that was full of prompts. The first one also has to warm up."""
        if self._warm:
            self._fed_s.append(seconds / prompt_tokens)
        self._warm = True

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

    def _feeding_s(self, prompt_tokens: int) -> float:
        return prompt_tokens * median(self._fed_s) if len(self._fed_s) >= _KNOWN_STEPS else 0.0

    def _interval_s(self) -> float:
        known = len(self._intervals_s) >= _KNOWN_INTERVALS
        return fmean(self._intervals_s) if known else 0.0

    def _too_long(self, wait_s: float) -> OverloadedError:
        return OverloadedError(
            f"the wait could be {wait_s:.1f} s, more than {self.max_wait_s:g} s",
            wait_s - self.max_wait_s,
        )
