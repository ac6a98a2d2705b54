"""Everything that waits to run, and what is worth its wait."""

from __future__ import annotations

import time
from collections.abc import Iterator

from cold_backend.engine.admission import Admission, Line
from cold_backend.engine.scheduler import Scheduler
from cold_backend.engine.waiting import Waiter, WaitingQueue
from cold_backend.errors import (
    AdapterUnreadableError,
    ColdError,
    DeadlineError,
    InvalidRequestError,
    RequestCancelledError,
)
from cold_backend.requests.request import GenerationRequest
from cold_backend.requests.sequence import Sequence


class Lobby:
    """The queue, and places in it for sequences that are not complete yet.

    Not safe for threads by itself, but for `unwanted`.

    Args:
        scheduler: has what is waited for.
        admission: says who is let in, and who is to go.
    """

    def __init__(self, scheduler: Scheduler, admission: Admission) -> None:
        self._scheduler = scheduler
        self._admission = admission
        self.queue = WaitingQueue()
        self.announced = 0  # sequences that will come

    def __len__(self) -> int:
        return len(self.queue) + self.announced

    def announce(self, waiter: Waiter) -> None:
        """Keeps a place. Raises OverloadedError."""
        self._check(waiter)
        self.announced += 1

    def withdraw(self) -> None:
        """Gives a place up."""
        self.announced -= 1

    def enter(self, sequence: Sequence) -> None:
        """Takes a place. Raises OverloadedError, and has given the place up."""
        self.announced -= 1
        self._check(sequence)
        self.queue.put(sequence)

    def admit(self) -> Iterator[Sequence]:
        """Lets those run whose turn it is, as long as there is room."""
        if any(adapter.path for sequence in self.queue for adapter in sequence.adapters):
            turns = self.queue.order(time.monotonic())
            self._scheduler.adapters.prepare(one for turn in turns for one in turn.adapters)
        while self.queue:
            now_s = time.monotonic()
            sequence = self.queue.next(now_s, lambda s: self.is_ready(s) or self._is_stuck(s))
            if sequence is None or not self.is_ready(sequence):
                return
            if not self._scheduler.admit(sequence):
                return  # smaller ones that came in between would keep it waiting for ever
            self.queue.take(sequence)
            sequence.admitted_s = now_s
            self.queue.charge(sequence.request.adapter, sequence.request.longest_prompt)
            yield sequence

    def is_ready(self, sequence: Sequence) -> bool:
        """Whether the models have its adapters."""
        return all(map(self._scheduler.adapters.is_ready, sequence.adapters))

    def _is_stuck(self, sequence: Sequence) -> bool:
        """Whether there will be places for its adapters only if nobody else takes them again."""
        adapters = self._scheduler.adapters
        return not adapters.is_loading and not all(map(adapters.has_place, sequence.adapters))

    def release(self, sequence: Sequence, now_s: float, *, answered: bool) -> None:
        """Takes back what a sequence has, which was `answered` if it came to its end."""
        self._scheduler.release(sequence)
        self._admission.released(now_s, waiting=bool(self.queue))
        admitted_s, first_token_s = sequence.admitted_s, sequence.first_token_s
        if answered and admitted_s is not None and first_token_s is not None:
            self._admission.answered(
                first_token_s - admitted_s,
                now_s - first_token_s,
                sequence.output_length,
                sequence.request.max_tokens,
            )

    def line(self) -> Line:
        """The sequences that run, for others to stand behind."""
        claim_of, running = self._scheduler.claim_of, self._scheduler.running
        return Line(
            self._scheduler.free, [(claim_of(s.request), s.pending_prompt) for s in running]
        )

    def unwanted(
        self, waiting: list[Sequence], line: Line, now_s: float
    ) -> Iterator[tuple[Sequence, ColdError]]:
        """What has to be ended, and why: cancelled, late, or now known to wait in vain.

        Args:
            waiting: in the order in which they will be served.
            line: what is before them.
        """
        for sequence in waiting:
            error = self._problem(sequence, line, now_s)
            if error:
                yield sequence, error
            else:
                claim = self._scheduler.claim_of(sequence.request)
                line.join(claim, sequence.request.longest_prompt)

    def _problem(self, sequence: Sequence, line: Line, now_s: float) -> ColdError | None:
        if sequence.sink.is_cancelled():
            return RequestCancelledError()
        if now_s > sequence.deadline_s:
            return DeadlineError(sequence.request.deadline_s)
        waited_s = now_s - sequence.accepted_s
        if waited_s > self._admission.max_wait_s:
            return self._waited_too_long(sequence)
        if not self._scheduler.can_ever_run(sequence.request):
            return self._too_large(sequence.request)
        ahead = line.ahead_of(self._scheduler.claim_of(sequence.request))
        left_s = sequence.deadline_s - now_s
        return self._admission.hopeless(ahead, waited_s=waited_s, left_s=left_s)

    def _waited_too_long(self, sequence: Sequence) -> ColdError:
        is_ready, wait_s = self._scheduler.adapters.is_ready, self._admission.max_wait_s
        for adapter in sequence.adapters:
            if not is_ready(adapter):
                return AdapterUnreadableError(adapter.name, f"was not loaded within {wait_s:g} s")
        return self._admission.waited_too_long(len(self))

    def _check(self, waiter: Waiter) -> None:
        now_s = time.monotonic()
        request = waiter.request
        claim_of = self._scheduler.claim_of
        if not self._scheduler.can_ever_run(request):
            raise self._too_large(request)
        line = self.line()
        for other in self.queue.ahead_of(waiter, now_s):
            line.join(claim_of(other.request), other.request.longest_prompt)
        self._admission.check(
            waiting=len(self),
            ahead=line.ahead_of(claim_of(request)),
            prompt_tokens=request.longest_prompt,
            max_tokens=request.max_tokens,
            left_s=waiter.accepted_s + request.deadline_s - now_s,
            deadline_s=request.deadline_s,
        )

    def _too_large(self, request: GenerationRequest) -> InvalidRequestError:
        """The models see to it that each has room for any single context, and one adapter."""
        few = "more KV-cache blocks than there are"
        if not self._scheduler.adapters.can_hold(request.adapter_names):
            names = request.adapter_names
            return InvalidRequestError(
                request.field_of(names[-1]),
                f"the server cannot hold so many adapters at once: {', '.join(names)}",
            )
        if request.width > 1:
            beams = f"{request.width} beams, prompt and max_tokens need {few}"
            return InvalidRequestError("beam_width", beams)
        return InvalidRequestError(
            "amateur_lora_name",
            f"with an adapter, both prompts and max_tokens need {few} for adapters",
        )
