"""Signs of life of `cold`, in a file that `cold-server` looks at.

tritonserver calls itself ready while a thread of a model hangs, and asking the model would be one
more request in its metrics and traces.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BEAT_S = 0.5
_BEAT, _ACCEPTING, _STEPPING, _ACCEPTED = range(4)  # a double each, written whole
_BYTES = 4 * 8


@dataclass(frozen=True, slots=True)
class Signs:
    """What a pulse says; times in seconds of the machine's monotonic clock.

    Attributes:
        beat_s: when the process last ran Python code; 0 if it has not begun.
        accepting_s: since when it has been taking in a request; 0 if it is not.
        stepping_s: since when it has been in a step; 0 if it is not.
        accepted: how many times it began to take in requests.
    """

    beat_s: float
    accepting_s: float
    stepping_s: float
    accepted: float


class Pulse:
    """Writes signs of life, on a thread of its own for the beats.

    Args:
        path: of the file, which is created.
    """

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(_BYTES))
        with path.open("r+b") as file:
            self._signs = memoryview(mmap.mmap(file.fileno(), _BYTES)).cast("d")
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)
        self._thread.start()

    def accepting(self) -> contextlib.AbstractContextManager[None]:
        """Around taking in requests."""
        self._signs[_ACCEPTED] += 1
        return self._during(_ACCEPTING)

    def stepping(self) -> contextlib.AbstractContextManager[None]:
        """Around a step."""
        return self._during(_STEPPING)

    def close(self) -> None:
        """Beats no more."""
        self._closing.set()
        self._thread.join()

    @contextlib.contextmanager
    def _during(self, sign: int) -> Iterator[None]:
        self._signs[sign] = time.monotonic()
        try:
            yield
        finally:
            self._signs[sign] = 0.0

    def _beat(self) -> None:
        closing = False
        while not closing:
            self._signs[_BEAT] = time.monotonic()
            closing = self._closing.wait(_BEAT_S)


def read_pulse(path: Path) -> Signs:
    """What a pulse says now; all 0 if there is none yet."""
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    if len(content) < _BYTES:
        return Signs(0.0, 0.0, 0.0, 0.0)
    return Signs(*memoryview(content).cast("d"))
