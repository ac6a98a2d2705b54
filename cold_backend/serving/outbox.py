"""Sends responses beside the engine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_log = logging.getLogger(__name__)


class Outbox:
    """Sends in order, on a thread of its own.

    Each response is a round trip to tritonserver's process, and the engine need not wait for it.
    """

    def __init__(self) -> None:
        self._sender = ThreadPoolExecutor(1, "outbox")

    def put(self, send: Callable[[], None]) -> None:
        """Has something sent after everything before it."""
        self._sender.submit(_logged, send)

    def close(self) -> None:
        """Returns when everything is sent."""
        self._sender.shutdown()


def _logged(send: Callable[[], None]) -> None:
    try:
        send()
    except Exception:
        _log.exception("a response could not be sent")
