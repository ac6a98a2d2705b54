"""Reads what a server writes on standard error, or does not, or hangs up."""

from __future__ import annotations

import os
import select
import threading
from pathlib import Path

_WAIT_S = 0.1


class Stderr:
    """A pipe whose content goes to a file.

    Args:
        log: the file.

    Attributes:
        pipe: the end for the server, to be closed here once it has it.
    """

    def __init__(self, log: Path) -> None:
        self._end, self.pipe = os.pipe()
        self._log = log
        self._reading = threading.Event()
        self._reading.set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def read(self, reading: bool) -> None:
        """Whether what comes is read."""
        (self._reading.set if reading else self._reading.clear)()

    def close(self) -> None:
        """Reads no more; whoever writes then finds the pipe broken."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        with self._log.open("wb", buffering=0) as log:
            while not self._closing.is_set():
                if not self._reading.wait(_WAIT_S):
                    continue
                if select.select([self._end], [], [], _WAIT_S)[0]:
                    data = os.read(self._end, 1 << 16)
                    if not data:
                        break
                    log.write(data)
        os.close(self._end)
