"""The decoding loop: admit, plan, step, deliver, until every sequence has ended."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from cold_backend.admission import Admission
from cold_backend.beam import BeamSearch
from cold_backend.contract import Step, StepResult
from cold_backend.errors import (
    ColdError,
    DeadlineError,
    RequestCancelledError,
    ShuttingDownError,
    StepError,
)
from cold_backend.scheduler import Chunk, Scheduler
from cold_backend.sequence import FinishReason, Sequence
from cold_backend.step_runner import Done, StepRunner
from cold_backend.telemetry import Load, Telemetry
from cold_backend.token import Continuation, Token
from cold_backend.waiting import WaitingQueue

_log = logging.getLogger(__name__)

# Asking whether a request was cancelled costs a round trip to the server's process.
CHECK_INTERVAL_S = 0.1


class Engine:
    """Runs all sequences, one step of the whole batch after the other.

    One thread calls `run`; it alone touches the running sequences. `submit` and `close` may be
    called from any thread.

    Args:
        execute: does one decoding step, in place of which anything may stand that keeps the
            step contract.
        scheduler: slots and chunks.
        admission: what may wait for a slot.
        telemetry: is told what happens.
    """

    def __init__(
        self,
        execute: Callable[[Step], StepResult],
        scheduler: Scheduler,
        admission: Admission,
        telemetry: Telemetry,
    ) -> None:
        self._runner = StepRunner(execute, scheduler, telemetry)
        self._scheduler = scheduler
        self._admission = admission
        self._telemetry = telemetry
        self._waiting = WaitingQueue()
        self._changed = threading.Condition()
        self._draining = self._closing = False
        self._next_check_s = 0.0

    def submit(self, sequence: Sequence) -> None:
        """Accepts a sequence; from then on the engine ends it, one way or another.

        Raises:
            OverloadedError: it could not be served in time.
            ShuttingDownError: the engine is to stop.
        """
        request = sequence.request
        with self._changed:
            if self._draining or self._closing:
                raise ShuttingDownError
            self._admission.check(
                waiting=len(self._waiting),
                ahead=self._waiting.ahead_of(request.priority) + (not self._scheduler.free),
                max_tokens=request.max_tokens,
                deadline_s=request.deadline_s,
            )
            self._waiting.put(sequence)
            self._changed.notify()

    def drain(self) -> None:
        """Accepts nothing more, and has `run` return when everything accepted has ended."""
        with self._changed:
            self._draining = True
            self._changed.notify()

    def close(self) -> None:
        """Accepts nothing more, and has `run` end every sequence and return."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def run(self) -> None:
        """Works until the engine is closed, or drained."""
        while self._wait_for_work():
            self.step()
        for sequence in [*self._scheduler.running, *self._waiting]:
            self._fail(sequence, ShuttingDownError())

    def load(self) -> Load:
        """How busy it is; may be called from any thread."""
        running = [*self._scheduler.running]
        return Load(
            running=len(running),
            waiting=len(self._waiting),
            cached_tokens=sum(row.fed for s in running for row in s.rows),
            adapters=len(self._scheduler.adapters),
        )

    def step(self) -> None:
        """One token for every sequence that generates, a chunk of every prompt that fits."""
        begun_s = time.monotonic()
        self._end_unwanted(begun_s)
        self._admit()
        chunks = self._scheduler.plan()
        if chunks:
            self._advance(chunks, begun_s)

    def _wait_for_work(self) -> bool:
        def has_work() -> bool:
            return bool(self._waiting or self._scheduler.running)

        with self._changed:
            self._changed.wait_for(lambda: has_work() or self._draining or self._closing)
            return has_work() and not self._closing

    def _admit(self) -> None:
        with self._changed:
            while self._waiting and self._scheduler.free:
                now_s = time.monotonic()
                sequence = self._waiting.next(now_s)
                if sequence.width > self._scheduler.free:
                    return  # narrower ones that came in between would keep it waiting for ever
                self._waiting.take(sequence)
                sequence.admitted_s = now_s
                self._scheduler.admit(sequence)
                self._waiting.charge(sequence.request.adapter, len(sequence.request.prompt))
                self._telemetry.admitted(sequence)

    def _advance(self, chunks: list[Chunk], begun_s: float) -> None:
        """Executes a step; requests that make it fail end, and only they."""
        planned_s = time.monotonic()
        outcome = self._runner.run(chunks)
        executed_s = time.monotonic()
        for sequence in outcome.failed:
            self._fail(sequence, StepError("the decoding step failed"))
        for done in outcome.done:
            self._deliver(done, executed_s)
        if outcome.done:
            self._telemetry.stepped(
                planned_s - begun_s + outcome.prepared_s,
                outcome.executed_s,
                time.monotonic() - executed_s,
            )

    def _deliver(self, done: Done, now_s: float) -> None:
        emitting = [chunk.sequence for chunk in done.chunks if chunk.emits]
        for chunk in done.chunks:
            chunk.sequence.fed += chunk.length
        rows_of: dict[Sequence, list[int]] = {}
        for row, sequence in enumerate(emitting):
            rows_of.setdefault(sequence.owner, []).append(row)
        for sequence, rows in rows_of.items():
            try:
                self._deliver_to(sequence, rows, done, now_s)
            except Exception:
                # One answer that cannot be made into text must not take the others along.
                _log.exception("a token could not be delivered")
                if sequence.slot >= 0:
                    self._fail(sequence, StepError("the decoding step failed"))

    def _deliver_to(self, sequence: Sequence, rows: list[int], done: Done, now_s: float) -> None:
        tokens = [done.tokens[row] for row in rows]
        found = [done.continuations[row] for row in rows if row in done.continuations]
        is_finite = all(token.id >= 0 for token in tokens)
        if not is_finite or (sequence.search and len(found) < len(rows)):
            self._fail(sequence, StepError("the model's logits were not finite"))
        elif sequence.search:
            self._search(sequence, sequence.search, found, now_s)
        else:
            self._waiting.charge(sequence.request.adapter, 1)
            self._send(sequence, self._accept(sequence, tokens[0], now_s))

    def _search(
        self,
        sequence: Sequence,
        search: BeamSearch[Sequence],
        found: list[list[Continuation]],
        now_s: float,
    ) -> None:
        self._waiting.charge(sequence.request.adapter, len(found))
        reason = None
        for token in sequence.advance(search, found, now_s):
            reason = self._accept(sequence, token, now_s)
        if reason is not None:
            self._send(sequence, reason)

    def _accept(self, sequence: Sequence, token: Token, now_s: float) -> FinishReason | None:
        reason = sequence.accept(token, now_s)
        self._telemetry.picked(sequence, token)
        return reason

    def _send(self, sequence: Sequence, reason: FinishReason | None) -> None:
        if reason is not None:
            self._leave(sequence, reason)
        sequence.send(reason)

    def _fail(self, sequence: Sequence, error: ColdError) -> None:
        self._leave(sequence, error)
        sequence.sink.fail(error)

    def _leave(self, sequence: Sequence, end: FinishReason | ColdError) -> None:
        """Takes a sequence out of wherever it is, before its last response."""
        now_s = time.monotonic()
        with self._changed:
            if sequence.slot < 0:
                self._waiting.remove(sequence)
            else:
                self._scheduler.release(sequence)
                self._admission.slot_released(now_s, waiting=bool(self._waiting))
                if end in (FinishReason.STOP, FinishReason.LENGTH):
                    self._admission.answered(
                        sequence.first_token_s - sequence.admitted_s,
                        now_s - sequence.first_token_s,
                        sequence.output_length,
                        sequence.request.max_tokens,
                    )
        self._telemetry.ended(sequence, end, now_s)

    def _end_unwanted(self, now_s: float) -> None:
        """Ends what was cancelled or has run out of time."""
        if now_s < self._next_check_s:
            return
        for sequence in [*self._scheduler.running]:
            if sequence.sink.is_cancelled():
                self._send(sequence, FinishReason.CANCELLED)
            elif now_s > sequence.deadline_s:
                self._fail(sequence, DeadlineError(sequence.request.deadline_s))
        with self._changed:
            waiting = [*self._waiting]
        for sequence in waiting:
            if sequence.sink.is_cancelled():
                self._fail(sequence, RequestCancelledError())
            elif now_s > sequence.deadline_s:
                self._fail(sequence, DeadlineError(sequence.request.deadline_s))
            elif now_s > sequence.accepted_s + self._admission.max_wait_s:
                self._fail(sequence, self._admission.waited_too_long(len(waiting)))
        self._next_check_s = time.monotonic() + CHECK_INTERVAL_S
