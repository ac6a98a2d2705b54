"""A few threads for reads that may hang for ever."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_TICK_S = 0.05


class ReadTimeoutError(Exception):
    """A read did not end in time. It may still hang."""


class ReadersBusyError(Exception):
    """A read was not even tried: too many others hang or wait, or one of the same key hangs."""


@dataclass(eq=False, slots=True)
class Reading:
    """A read that was asked for.

    Attributes:
        key: no other of the same is read at the same time.
        limit_s: seconds until it is given up, first in the queue, then on its thread.
        ends_s: time.monotonic at which it is given up.
    """

    key: str
    read: Callable[[Reading], Any]
    limit_s: float
    ends_s: float
    future: Future[Any] = field(default_factory=Future)
    runs: bool = False
    hangs: bool = False

    def give_more_time(self, limit_s: float) -> None:
        """Called by what reads, when it turns out that there is more to read."""
        self.ends_s = time.monotonic() + limit_s


class ReaderPool:
    """Reads by key, each key once at a time; safe for threads.

    A read that takes too long fails, and its thread is written off until it comes back. As long as
    not too many hang, others take their places. All threads end with the process, whatever hangs.

    Args:
        threads: that read at the same time.
        spare: further ones that may hang before the others become fewer.
        waiting: reads that may wait for a thread.
    """

    def __init__(self, threads: int = 4, spare: int = 12, waiting: int = 256) -> None:
        self._threads = threads
        self._all = threads + spare
        self._most_waiting = waiting
        self._changed = threading.Condition()
        self._readings: dict[str, Reading] = {}  # by key, until what reads has returned
        self._queue: deque[Reading] = deque()
        self._workers = self._idle = self._hanging = 0
        self._watching = False

    def submit(self, key: str, read: Callable[[Reading], _T], limit_s: float) -> Future[_T]:
        """Has something read, or joins those that wait for the same already.

        Args:
            key: what is read.
            read: may raise anything, which the future then has.
            limit_s: seconds until it is given up, first in the queue, then on a thread.

        Returns:
            What comes of it; a ReadTimeoutError if nothing does in time. Its callbacks are called
            on a thread of the pool.

        Raises:
            ReadersBusyError: it could not even be tried.
        """
        with self._changed:
            same = self._readings.get(key)
            if same and same.hangs:
                raise ReadersBusyError("an earlier read of it has not come back")
            if same:
                return same.future
            if self._hanging >= self._all:
                raise ReadersBusyError(f"{self._hanging} others have not come back")
            if len(self._queue) >= self._most_waiting:
                raise ReadersBusyError(f"{len(self._queue)} others are waiting to be read")
            reading = Reading(key, read, limit_s, time.monotonic() + limit_s)
            self._man(len(self._queue) + 1)
            self._readings[key] = reading
            self._queue.append(reading)
            self._changed.notify_all()
            return reading.future

    def hangs(self, key: str) -> bool:
        """Whether a read of it was given up and has not come back. Takes no lock."""
        reading = self._readings.get(key)
        return reading is not None and reading.hangs

    def _man(self, waiting: int) -> None:
        """Starts the threads that are missing. The lock is held."""
        wanted = min(self._threads, self._all - self._hanging)
        try:
            if waiting > self._idle and self._workers < wanted:
                threading.Thread(target=self._work, name="reader", daemon=True).start()
                self._workers += 1
            if not self._watching:
                threading.Thread(target=self._watch, name="reader watch", daemon=True).start()
                self._watching = True
        except RuntimeError as error:
            raise ReadersBusyError("no thread could be started") from error

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._queue)
                self._idle -= 1
                reading = self._queue.popleft()
                reading.runs = True
                reading.give_more_time(reading.limit_s)
            result, error = _outcome(reading)
            with self._changed:
                del self._readings[reading.key]
                if reading.hangs:
                    self._hanging -= 1
                    if self._workers >= self._threads:
                        return  # another has taken its place
                    self._workers += 1
                    continue
            _settle(reading, result, error)

    def _watch(self) -> None:
        """Gives up what takes too long."""
        while True:
            with self._changed:
                if not self._readings:
                    self._watching = False
                    return
                now_s = time.monotonic()
                late = [r for r in self._readings.values() if not r.hangs and r.ends_s < now_s]
                for reading in late:
                    self._give_up(reading)
                if late and self._queue:
                    with contextlib.suppress(ReadersBusyError):
                        self._man(len(self._queue))
                if not late:
                    only_hanging = len(self._readings) == self._hanging
                    self._changed.wait(None if only_hanging else _TICK_S)
            for reading in late:
                _settle(reading, None, ReadTimeoutError())

    def _give_up(self, reading: Reading) -> None:
        if reading.runs:
            reading.hangs = True
            self._hanging += 1
            self._workers -= 1
            _log.warning("a read hangs", extra={"what": reading.key, "hanging": self._hanging})
        else:
            self._queue.remove(reading)
            del self._readings[reading.key]


def _outcome(reading: Reading) -> tuple[Any, Exception | None]:
    try:
        return reading.read(reading), None
    except Exception as error:
        return None, error


def _settle(reading: Reading, result: Any, error: Exception | None) -> None:
    try:
        if error is None:
            reading.future.set_result(result)
        else:
            reading.future.set_exception(error)
    except Exception:  # of what was called back
        _log.exception("what came of a read could not be handed on")
