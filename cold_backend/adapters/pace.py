"""How fast work beside the decoding steps may go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from cold_backend.contract import Step, StepResult

_SHARE = 0.05  # of one core
_SLICE_S = 0.001
_BUSY_S = 0.5  # so long after a step the next one is expected


class Pace:
    """Holds work on other threads back while steps are executed.

    On a CPU that work takes cores from the steps, and everywhere Python's lock, for which a step
    waits at each of its ops. So all such threads together work for 5 % of the time. Without
    steps nothing is held back.
    """

    def __init__(self) -> None:
        self._step_s = float("-inf")
        self._resting = threading.Lock()
        self._of_thread = threading.local()

    def step(self) -> None:
        """Says that a step is executed now."""
        self._step_s = time.monotonic()

    def beside(self, execute: Callable[[Step], StepResult]) -> Callable[[Step], StepResult]:
        """What executes steps, and says so of those that have rows."""

        def executes(step: Step) -> StepResult:
            if len(step.rows):
                self.step()
            return execute(step)

        return executes

    @property
    def is_busy(self) -> bool:
        """Whether steps are being executed."""
        return time.monotonic() < self._step_s + _BUSY_S

    def rest(self) -> None:
        """Called often by what works; sleeps for as long as its thread has to pause."""
        now_s = time.thread_time()
        worked_s = now_s - getattr(self._of_thread, "begun_s", now_s)
        if worked_s and worked_s < _SLICE_S:
            return
        if self.is_busy:
            with self._resting:  # one after another, so that more threads do not work more
                time.sleep(min(worked_s * (1 / _SHARE - 1), _BUSY_S))
        self._of_thread.begun_s = time.thread_time()
