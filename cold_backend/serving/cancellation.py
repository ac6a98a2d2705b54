"""Whether a client still wants its answer."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Cancellation:
    """Asks whether a request was cancelled, but never about one that has ended; safe for threads.

    What tritonserver has for a request is gone when its last response has been sent, and asking
    then would end tritonserver.

    Args:
        ask: takes a round trip to tritonserver's process.
    """

    def __init__(self, ask: Callable[[], bool]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self.has_ended = False

    def is_asked_for(self) -> bool:
        """Whether the client has cancelled the request; false once it has ended."""
        with self._lock:
            return not self.has_ended and bool(self._ask())

    def end(self) -> None:
        """To be called before the last response is sent; waits for who is asking."""
        with self._lock:
            self.has_ended = True
