"""The sequences that wait to run, and which of them is next."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from cold_backend.requests.request import GenerationRequest
from cold_backend.requests.sequence import Sequence

# How long a sequence waits before it counts as one of the next higher priority.
AGE_S = 10.0


class Waiter(Protocol):
    """What wants to run."""

    @property
    def request(self) -> GenerationRequest:
        """What it is for."""
        ...

    @property
    def accepted_s(self) -> float:
        """Since when, as of time.monotonic."""
        ...


W = TypeVar("W", bound=Waiter)


class WaitingQueue:
    """Highest priority first; within it, the adapter that has been served least.

    A sequence rises by one priority for every AGE_S that it waits, so none starves. Adapters share
    by tokens served, prompt and output (virtual token counter, arXiv 2401.00588): one whose queue
    was empty starts level with the others instead of claiming what it did not use.

    Not safe for threads by itself.
    """

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []
        self._adapters: Counter[str] = Counter()  # how many wait for each
        self._served: Counter[str] = Counter()  # tokens, by adapter
        self._level = 0  # what the adapter that was served last had been served by then

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter([*self._sequences])

    def put(self, sequence: Sequence) -> None:
        """Adds a sequence."""
        adapter = sequence.request.adapter
        self._served[adapter] = self._count_of(adapter)
        self._adapters[adapter] += 1
        self._sequences.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Takes out a sequence that is in it."""
        self._sequences.remove(sequence)
        self._adapters[sequence.request.adapter] -= 1

    def next(
        self, now_s: float, is_ready: Callable[[Sequence], bool] = lambda _: True
    ) -> Sequence | None:
        """The sequence whose turn it is, of those that are ready; None if none is."""
        ranked = (
            (_rank(s, now_s), self._served[s.request.adapter], number, s)
            for number, s in enumerate(self._sequences)
            if is_ready(s)
        )
        *_, sequence = min(ranked, default=(None,))
        return sequence

    def take(self, sequence: Sequence) -> None:
        """Takes out the sequence whose turn it is, to be served."""
        self._level = self._served[sequence.request.adapter]
        self.remove(sequence)

    def charge(self, adapter: str, tokens: int) -> None:
        """Counts tokens that an adapter was served."""
        self._served[adapter] += tokens

    def order(self, now_s: float) -> list[Sequence]:
        """All of them as they would be taken if nothing but their prompts were served."""
        return self._ordered(self._sequences, now_s)

    def ahead_of(self, new: Waiter, now_s: float) -> list[Waiter]:
        """Those that would be taken before one that is not in it, in that order."""
        order = self._ordered([*self._sequences, new], now_s)
        return order[: order.index(new)]

    def _ordered(self, waiters: Iterable[W], now_s: float) -> list[W]:
        ranks: dict[int, dict[str, deque[W]]] = {}
        for one in waiters:
            of_rank = ranks.setdefault(_rank(one, now_s), {})
            of_rank.setdefault(one.request.adapter, deque()).append(one)
        served: dict[str, int] = {}
        order = []
        for _, of_rank in sorted(ranks.items()):
            turns = [
                (served.setdefault(adapter, self._count_of(adapter)), number, adapter)
                for number, adapter in enumerate(of_rank)
            ]
            heapq.heapify(turns)
            while turns:
                count, number, adapter = turns[0]
                one = of_rank[adapter].popleft()
                order.append(one)
                served[adapter] = count + one.request.longest_prompt
                if of_rank[adapter]:
                    heapq.heapreplace(turns, (served[adapter], number, adapter))
                else:
                    heapq.heappop(turns)
        return order

    def _count_of(self, adapter: str) -> int:
        """What an adapter has been served; if none of it waits, no less than the others."""
        served = self._served[adapter]
        return served if self._adapters[adapter] else max(served, self._level)


def _rank(waiter: Waiter, now_s: float) -> int:
    waited_s = now_s - waiter.accepted_s
    return max(0, waiter.request.priority - int(waited_s / AGE_S))
