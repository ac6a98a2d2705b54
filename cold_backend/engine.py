"""The decoding loop: admit, plan, step, deliver, until every sequence has ended."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from cold_backend.contract import LogProb, Pick, Step, StepResult
from cold_backend.errors import (
    ColdError,
    QueueFullError,
    RequestCancelledError,
    ShuttingDownError,
    StepError,
)
from cold_backend.scheduler import Chunk, Scheduler, build_step
from cold_backend.sequence import FinishReason, Sequence, Token

_log = logging.getLogger(__name__)

# Asking whether a request was cancelled costs a round trip to the server's process.
CANCEL_CHECK_INTERVAL_S = 0.1


class Engine:
    """Runs all sequences, one step of the whole batch after the other.

    One thread calls `run`; it alone touches the running sequences. `submit` and `close` may be
    called from any thread.

    Args:
        execute: does one decoding step, in place of which anything may stand that keeps the
            step contract.
        scheduler: slots and chunks.
        max_queue: sequences that may wait for a slot.
    """

    def __init__(
        self, execute: Callable[[Step], StepResult], scheduler: Scheduler, max_queue: int
    ) -> None:
        self._execute = execute
        self._scheduler = scheduler
        self._max_queue = max_queue
        self._waiting: deque[Sequence] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._next_cancel_check = 0.0

    def submit(self, sequence: Sequence) -> None:
        """Accepts a sequence; from then on the engine ends it, one way or another.

        Raises:
            QueueFullError: max_queue sequences wait already.
            ShuttingDownError: the engine was closed.
        """
        with self._changed:
            if self._closing:
                raise ShuttingDownError
            if len(self._waiting) >= self._max_queue:
                raise QueueFullError(f"the queue is full: {self._max_queue} requests are waiting")
            self._waiting.append(sequence)
            self._changed.notify()

    def close(self) -> None:
        """Accepts nothing more, and has `run` end every sequence and return."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def run(self) -> None:
        """Works until the engine is closed."""
        while self._wait_for_work():
            self.step()
        for sequence in [*self._scheduler.running, *self._take_waiting()]:
            self._fail(sequence, ShuttingDownError())

    def step(self) -> None:
        """One token for every sequence that generates, a chunk of every prompt that fits."""
        self._end_cancelled()
        self._admit()
        chunks = self._scheduler.plan()
        if chunks:
            self._advance(chunks)

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(
                lambda: self._closing or self._waiting or self._scheduler.running
            )
            return not self._closing

    def _admit(self) -> None:
        with self._changed:
            while self._waiting and self._scheduler.has_room:
                self._scheduler.admit(self._waiting.popleft())

    def _advance(self, chunks: list[Chunk]) -> None:
        """Executes a step; if it fails, so do the sequences in it, and only they."""
        try:
            self._deliver(chunks, self._execute(build_step(chunks)))
        except Exception:
            # Whatever went wrong below, requests must end and the loop must go on.
            _log.exception("a decoding step failed")
            for chunk in chunks:
                if chunk.sequence.slot >= 0:
                    self._fail(chunk.sequence, StepError("the decoding step failed"))

    def _deliver(self, chunks: list[Chunk], result: StepResult) -> None:
        emitting = [chunk.sequence for chunk in chunks if chunk.emits]
        for chunk in chunks:
            chunk.sequence.fed += chunk.length
        picks, log_probs = result.picks.tolist(), result.log_probs.tolist()
        for sequence, pick, log_prob in zip(emitting, picks, log_probs, strict=True):
            if pick[Pick.TOKEN] < 0:
                self._fail(sequence, StepError("the model's logits were not finite"))
                continue
            token = Token(
                id=pick[Pick.TOKEN],
                expert_log_prob=log_prob[LogProb.EXPERT],
                base_log_prob=log_prob[LogProb.BASE],
                expert_token=pick[Pick.EXPERT_TOKEN],
                valid_count=pick[Pick.VALID_COUNT],
            )
            self._send(sequence, sequence.accept(token))

    def _send(self, sequence: Sequence, reason: FinishReason | None) -> None:
        if reason is not None:
            self._scheduler.release(sequence)
        sequence.send(reason)

    def _fail(self, sequence: Sequence, error: ColdError) -> None:
        if sequence.slot >= 0:
            self._scheduler.release(sequence)
        sequence.sink.fail(error)

    def _end_cancelled(self) -> None:
        now = time.monotonic()
        if now < self._next_cancel_check:
            return
        for sequence in [*self._scheduler.running]:
            if sequence.sink.is_cancelled():
                self._send(sequence, FinishReason.CANCELLED)
        for sequence in self._take_waiting(cancelled=True):
            sequence.sink.fail(RequestCancelledError())
        self._next_cancel_check = time.monotonic() + CANCEL_CHECK_INTERVAL_S

    def _take_waiting(self, *, cancelled: bool = False) -> list[Sequence]:
        """Removes sequences from the queue and returns them: all, or the cancelled ones."""
        with self._changed:
            waiting = [*self._waiting]
        taken = [s for s in waiting if not cancelled or s.sink.is_cancelled()]
        with self._changed:
            for sequence in taken:
                self._waiting.remove(sequence)
        return taken
