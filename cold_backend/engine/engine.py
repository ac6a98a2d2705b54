"""The decoding loop: admit, plan, step, deliver, until every sequence has ended."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from cold_backend.adapters.served import ServedAdapter, load_error
from cold_backend.config import Settings
from cold_backend.contract import AdapterReport, Step, StepResult
from cold_backend.engine.admission import Admission
from cold_backend.engine.lobby import Lobby
from cold_backend.engine.scheduler import Chunk, Scheduler
from cold_backend.engine.step_runner import Done, Picked, StepRunner
from cold_backend.engine.waiting import Waiter
from cold_backend.errors import ColdError, DeadlineError, ShuttingDownError, StepError
from cold_backend.requests.answer import FinishReason
from cold_backend.requests.sequence import Sequence
from cold_backend.telemetry.load import Load
from cold_backend.telemetry.telemetry import Telemetry

_log = logging.getLogger(__name__)

# Asking whether a request was cancelled costs a round trip to the server's process.
CHECK_INTERVAL_S = 0.1
_FAILED = "the decoding step failed"


class Engine:
    """Runs all sequences, one step of the whole batch after the other.

    One thread calls `run`; it alone changes the running sequences. All but `run` and `step` may be
    called from any thread; those that read how far sequences are may see what was one step ago.

    Args:
        execute: does one decoding step: any callable that keeps the step contract.
        scheduler: what runs, and chunks of it.
        admission: what may wait.
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
        self._lobby = Lobby(scheduler, admission)
        self._waiting = self._lobby.queue
        self._changed = threading.Condition()
        self._draining = self._closing = False
        self._next_check_s = 0.0

    @classmethod
    def of(
        cls, settings: Settings, execute: Callable[[Step], StepResult], telemetry: Telemetry
    ) -> Engine:
        """With the adapters and limits of the settings."""
        admission = Admission(settings.max_queue, settings.max_wait_s)
        return cls(execute, Scheduler.of(settings), admission, telemetry)

    def announce(self, waiter: Waiter) -> None:
        """Keeps a place for a sequence that is not complete yet: `enter` or `withdraw` must follow.

        Args:
            waiter: what is known of it; its prompt may be shorter than it will be.

        Raises:
            OverloadedError: it could not be served in time.
            ShuttingDownError: the engine is to stop.
        """
        with self._changed:
            if self._draining or self._closing:
                raise ShuttingDownError
            self._lobby.announce(waiter)

    def withdraw(self) -> None:
        """Gives a place up."""
        with self._changed:
            self._lobby.withdraw()
            self._changed.notify()

    def enter(self, sequence: Sequence) -> None:
        """Accepts an announced sequence; from then on the engine ends it, one way or another.

        Raises:
            OverloadedError: it could not be served in time.
            ShuttingDownError: the engine is to stop at once.
        """
        with self._changed:
            self._changed.notify()
            if self._closing:
                self._lobby.withdraw()
                raise ShuttingDownError
            self._lobby.enter(sequence)

    def submit(self, sequence: Sequence) -> None:
        """Announces a sequence and has it enter at once. Raises what these raise."""
        self.announce(sequence)
        self.enter(sequence)

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

    def run(self, stepping: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """Works until the engine is closed, or drained.

        A fault of its own ends what it has at that time, and it goes on.

        Args:
            stepping: what every step is within.
        """
        while self._wait_for_work():
            with stepping():
                try:
                    self.step()
                except Exception:
                    _log.exception("a step could not be made")
                    self._fail_all(StepError(_FAILED))
        self._fail_all(ShuttingDownError())

    def load(self) -> Load:
        """How busy it is; may be called from any thread."""
        with self._changed:
            running, waiting = len(self._scheduler.running), len(self._lobby)
        adapters, memory = len(self._scheduler.adapters), self._scheduler.memory.usage
        return Load(running, waiting, adapters, memory)

    def step(self) -> None:
        """One token for every sequence that generates, a chunk of every prompt that fits."""
        if not self._scheduler.memory.is_open:
            answer = self._runner.ask()
            with self._changed:
                self._scheduler.memory.open(answer)
        begun_s = time.monotonic()
        self._end_unwanted(begun_s)
        self._admit()
        chunks = self._scheduler.plan()
        if chunks or self._scheduler.adapters.is_loading:
            self._advance(chunks, begun_s)

    def _wait_for_work(self) -> bool:
        def has_work() -> bool:
            return bool(self._waiting or self._scheduler.running)

        def is_over() -> bool:
            return self._closing or (self._draining and not self._lobby.announced)

        with self._changed:
            self._changed.wait_for(lambda: has_work() or is_over())
            return has_work() and not self._closing

    def _admit(self) -> None:
        with self._changed:
            for sequence in self._lobby.admit():
                self._telemetry.admitted(sequence)

    def _advance(self, chunks: list[Chunk], begun_s: float) -> None:
        """Executes a step; requests that make it fail end, and only they."""
        planned_s = time.monotonic()
        fed = sum(chunk.length for chunk in chunks if not chunk.hypothesis.output_length)
        outcome = self._runner.run(chunks)
        executed_s = time.monotonic()
        self._settle(outcome.reports)
        for sequence in outcome.failed:
            if sequence.is_running:
                self._fail(sequence, StepError(_FAILED))
        for done in outcome.done:
            self._deliver(done, executed_s)
        if not outcome.done and not chunks:
            for sequence in self._unready():
                self._fail(sequence, StepError(_FAILED))
            self._scheduler.adapters.give_up()
        if outcome.done and chunks:
            delivered_s = time.monotonic()
            self._telemetry.stepped(
                planned_s - begun_s + outcome.prepared_s,
                outcome.executed_s,
                delivered_s - executed_s,
            )
            if 2 * fed >= self._scheduler.max_step_tokens:
                with self._changed:
                    self._admission.fed(fed, delivered_s - begun_s)

    def _settle(self, reports: list[AdapterReport]) -> None:
        """Takes in which adapters the models have now, and fails what waits for others in vain."""
        adapters = self._scheduler.adapters
        for report in reports:
            change = adapters.settle(report)
            if change is not None and report.problem:
                adapter = ServedAdapter(change.name, change.path, change.stamp)
                for sequence in self._unready(adapter):
                    field = sequence.request.field_of(adapter.name)
                    self._fail(sequence, load_error(report, field))
            elif change is not None:
                self._telemetry.adapter_loaded(change)

    def _unready(self, adapter: ServedAdapter | None = None) -> list[Sequence]:
        """What waits for an adapter to be loaded, or for any."""
        return [
            sequence
            for sequence in self._everything()
            if adapter in (None, *sequence.adapters) and not self._lobby.is_ready(sequence)
        ]

    def _deliver(self, done: Done, now_s: float) -> None:
        everything = done.take()
        self._scheduler.fed(done.chunks)
        with self._changed:
            for picked in everything:
                self._waiting.charge(picked.sequence.request.adapter, len(picked.tokens))
        for picked in everything:
            sequence = picked.sequence
            try:
                if sequence.is_running:  # else its adapter has failed
                    self._deliver_to(sequence, picked, now_s)
            except Exception:
                # One answer that cannot be made into text must not take the others along.
                _log.exception("a token could not be delivered")
                if sequence.is_running:
                    self._fail(sequence, StepError(_FAILED))

    def _deliver_to(self, sequence: Sequence, picked: Picked, now_s: float) -> None:
        tokens = picked.finite
        if tokens is None:
            names = ", ".join(sequence.request.adapter_names)
            whose = f"the model's logits with adapter {names}" if names else "the model's logits"
            self._scheduler.memory.forget(sequence)
            self._fail(sequence, StepError(f"{whose} were not finite"))
            return
        if sequence.search:
            tokens = sequence.advance(sequence.search, picked.continuations, now_s)
            if not tokens:
                self._scheduler.memory.branch(sequence)
        reason = None
        for token in tokens:
            reason = sequence.accept(token, now_s)
            self._telemetry.picked(sequence, token)
        if reason is not None or not sequence.search:
            self._send(sequence, reason)

    def _send(self, sequence: Sequence, reason: FinishReason | None) -> None:
        if reason is not None:
            self._leave(sequence, reason)
        sequence.send(reason)

    def _fail(self, sequence: Sequence, error: ColdError) -> None:
        self._leave(sequence, error)
        sequence.sink.fail(error)

    def _fail_all(self, error: ColdError) -> None:
        for sequence in self._everything():
            self._fail(sequence, error)

    def _everything(self) -> list[Sequence]:
        with self._changed:
            return [*self._scheduler.running, *self._waiting]

    def _leave(self, sequence: Sequence, end: FinishReason | ColdError) -> None:
        """Takes a sequence out of wherever it is, before its last response."""
        now_s = time.monotonic()
        with self._changed:
            if not sequence.is_running:
                self._waiting.remove(sequence)
            else:
                answered = end in (FinishReason.STOP, FinishReason.LENGTH)
                self._lobby.release(sequence, now_s, answered=answered)
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
            waiting, line = self._waiting.order(now_s), self._lobby.line()
        for sequence, error in self._lobby.unwanted(waiting, line, now_s):
            self._fail(sequence, error)
        self._next_check_s = time.monotonic() + CHECK_INTERVAL_S
