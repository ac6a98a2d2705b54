"""Where requests wait for their adapter to be read."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from cold_backend.adapter_catalogue import ServedAdapter
from cold_backend.errors import (
    ColdError,
    DeadlineError,
    RequestCancelledError,
    ShuttingDownError,
)

_log = logging.getLogger(__name__)
_CHECK_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Waiter:
    """A request that waits.

    Attributes:
        accepted_s: time.monotonic at which it came.
        deadline_s: seconds that it may take from then on.
        is_cancelled: whether the client no longer wants the answer.
        go_on: called with its adapter, on a thread of a reader; may raise.
        fail: called with an error in its place.
    """

    accepted_s: float
    deadline_s: float
    is_cancelled: Callable[[], bool]
    go_on: Callable[[ServedAdapter], None]
    fail: Callable[[ColdError], None]


class Lobby:
    """Has every request that waits go on, or fail, exactly once. Safe for threads.

    Those that are cancelled or late do not wait for the read to end, nor does `close`.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiters: set[Waiter] = set()
        self._closed = False
        self._thread: threading.Thread | None = None

    def wait(self, waiter: Waiter, found: Future[ServedAdapter]) -> None:
        """Has a request wait for its adapter.

        Raises:
            ShuttingDownError: the lobby is closed.
        """
        with self._changed:
            if self._closed:
                raise ShuttingDownError
            self._waiters.add(waiter)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="lobby", daemon=True)
                self._thread.start()
            self._changed.notify()
        found.add_done_callback(lambda _: self._found(waiter, found))

    def close(self) -> None:
        """Fails all that wait."""
        with self._changed:
            self._closed = True
            left = [*self._waiters]
            self._changed.notify()
        for waiter in left:
            self._fail(waiter, ShuttingDownError())

    def _found(self, waiter: Waiter, found: Future[ServedAdapter]) -> None:
        if not self._take(waiter):
            return
        error = found.exception()
        try:
            if error is not None:
                raise error
            return waiter.go_on(found.result())
        except ColdError as raised:
            refusal = raised
        except Exception:
            _log.exception("a request could not go on with its adapter")
            refusal = ColdError("internal error")
        waiter.fail(refusal)

    def _take(self, waiter: Waiter) -> bool:
        """Whether it still waits; if so, the caller is the one who ends that."""
        with self._changed:
            if waiter not in self._waiters:
                return False
            self._waiters.remove(waiter)
            return True

    def _fail(self, waiter: Waiter, error: ColdError) -> None:
        if self._take(waiter):
            waiter.fail(error)

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiters or self._closed)
                if self._closed:
                    return
                waiters = [*self._waiters]
            for waiter in waiters:
                if waiter.is_cancelled():
                    self._fail(waiter, RequestCancelledError())
                elif time.monotonic() > waiter.accepted_s + waiter.deadline_s:
                    self._fail(waiter, DeadlineError(waiter.deadline_s))
            time.sleep(_CHECK_INTERVAL_S)
