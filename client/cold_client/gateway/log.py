"""The gateway's log, for which no request waits."""

from __future__ import annotations

import copy
import logging
import os
import queue
import threading
from typing import Any

from uvicorn.config import LOGGING_CONFIG

_MOST_LINES = 1000  # that wait


class BackgroundHandler(logging.Handler):
    """Writes to a file on a thread of its own.

    What it has no room for, or what the file does not take, is dropped and counted: a pipe that
    nobody reads or a full disk must not stop the gateway.

    Args:
        fd: descriptor of the file.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._lines: queue.Queue[str] = queue.Queue(_MOST_LINES)
        self._dropped = 0
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        try:
            self._lines.put_nowait(self.format(record))
        except Exception:  # full, or a record that cannot be formatted
            self._dropped += 1

    def _run(self) -> None:
        while True:
            line = self._lines.get()
            dropped, self._dropped = self._dropped, 0
            told = f"\n{dropped} lines of the log were dropped" if dropped else ""
            if not self._write(f"{line}{told}\n".encode(errors="backslashreplace")):
                self._dropped += dropped + 1

    def _write(self, data: bytes) -> bool:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            return False
        return True


def log_config() -> dict[str, Any]:
    """uvicorn's own configuration of its log, with these handlers."""
    config = copy.deepcopy(LOGGING_CONFIG)
    for fd, name in ((2, "default"), (1, "access")):
        handler = config["handlers"][name]
        del handler["class"], handler["stream"]
        handler |= {"()": f"{__name__}.BackgroundHandler", "fd": fd}
    return config


def hold_standard_files() -> None:
    """Opens standard files that are closed as the null device.

    The next socket would else have their number, and get what is meant for them.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
