"""Which requests are worth accepting: those that can be served in time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from operator import add, lt
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


# What a sequence takes: places for its hypotheses, then blocks of each pool.
Claim = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ahead:
    """What has to happen before a sequence can run.

    Attributes:
        places: that must become free, for its hypotheses or with the blocks that it needs.
        prompt_tokens: that must be fed before so many can be.
    """

    places: int
    prompt_tokens: int


class Line:
    """Sequences in the order in which they are served, prompts first come first fed.

    Args:
        free: what is free.
        running: of each sequence that runs: what it takes, and how much of its prompt is to be fed.
    """

    def __init__(self, free: Claim, running: Iterable[tuple[Claim, int]]) -> None:
        self._needed = [-count for count in free]
        self._sequences = [*running]
        self._ended = self._prompt_tokens = 0  # of the first ones
        self._released = [0] * len(free)

    def join(self, claim: Claim, prompt_tokens: int) -> None:
        """Adds a sequence at the end: what it needs, and its prompt."""
        self._needed = [*map(add, self._needed, claim)]
        self._sequences.append((claim, prompt_tokens))

    def ahead_of(self, claim: Claim) -> Ahead:
        """What is ahead of one that would join now."""
        needed = [max(0, count) for count in map(add, self._needed, claim)]
        while any(map(lt, self._released, needed)) and self._ended < len(self._sequences):
            released, tokens = self._sequences[self._ended]
            self._ended += 1
            self._released = [*map(add, self._released, released)]
            self._prompt_tokens += tokens
        places = max(needed[0], self._released[0]) if any(needed[1:]) else needed[0]
        return Ahead(places, self._prompt_tokens)


class Admission:
    """Refuses early what could not be served in time.

    A sequence waits for places. They become free at random, so of the time that k of them take a
    standard deviation above the mean is counted: (k + sqrt(k)) x the mean interval. Before a place
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
        if not ahead.places:
            return
        spread = math.sqrt(ahead.places)
        wait_s = max((ahead.places + spread) * interval_s, self._feeding_s(ahead.prompt_tokens))
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
        """The error for a sequence that waits and cannot run in time; None if it may.

        It was let in, so only what is certain counts: half the others may be done sooner.
        """
        spread = math.sqrt(ahead.places)
        freeing_s = (ahead.places - spread) * self._interval_s()
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
            f"no room became free within {self.max_wait_s:g} s", waiting * self._interval_s()
        )

    def released(self, now_s: float, *, waiting: bool) -> None:
        """Learns from a sequence that ended; `waiting` says whether another waited for that."""
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
            prefill_s: from when it ran to its first token.
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
