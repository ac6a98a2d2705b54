"""The sequences that wait for a slot, and which of them is next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from cold_backend.sequence import Sequence

# How long a sequence waits before it counts as one of the next higher priority.
AGE_S = 10.0


class WaitingQueue:
    """Highest priority first; within it, the adapter that has been served least.

    A sequence rises by one priority for every AGE_S that it waits, so none starves. Adapters share
    by tokens served, prompt and output (virtual token counter, arXiv 2401.00588): one whose queue
    was empty starts level with the others instead of claiming what it did not use.

    Not safe for threads by itself.
    """

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []
        self._served: Counter[str] = Counter()  # by adapter
        self._level = 0  # what the adapter that was served last had been served by then

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter([*self._sequences])

    def put(self, sequence: Sequence) -> None:
        """Adds a sequence."""
        adapter = sequence.request.adapter
        if all(other.request.adapter != adapter for other in self._sequences):
            self._served[adapter] = max(self._served[adapter], self._level)
        self._sequences.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Takes out a sequence that is in it."""
        self._sequences.remove(sequence)

    def next(
        self, now_s: float, is_ready: Callable[[Sequence], bool] = lambda _: True
    ) -> Sequence | None:
        """The sequence whose turn it is, of those that are ready."""
        return next(filter(is_ready, self.in_turn(now_s)), None)

    def in_turn(self, now_s: float) -> list[Sequence]:
        """All of them, the one whose turn it is first."""
        ranked = sorted(
            (self._rank(s, now_s), self._served[s.request.adapter], number)
            for number, s in enumerate(self._sequences)
        )
        return [self._sequences[number] for *_, number in ranked]

    def take(self, sequence: Sequence) -> None:
        """Takes out the sequence whose turn it is, to be served."""
        self._level = self._served[sequence.request.adapter]
        self._sequences.remove(sequence)

    def charge(self, adapter: str, tokens: int) -> None:
        """Counts tokens that an adapter was served."""
        self._served[adapter] += tokens

    def ahead_of(self, priority: int) -> int:
        """How many would be taken before a new sequence of this priority, shares aside."""
        return sum(s.request.priority <= priority for s in self._sequences)

    def _rank(self, sequence: Sequence, now_s: float) -> int:
        waited_s = now_s - sequence.accepted_s
        return max(0, sequence.request.priority - int(waited_s / AGE_S))
