"""Lines of a log on their way to a file that may not take them."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque

_MOST_BYTES = 1 << 20  # that wait
_LONGEST_BYTES = 1 << 16  # of a line
_RETRY_S = 0.5  # after a write that failed


class LineWriter:
    """Writes lines to a file on a thread of its own; safe for threads.

    Whoever has something to say neither waits nor fails, whatever becomes of the file: a pipe that
    nobody reads or that is closed, a full disk. Lines for which there is no room are dropped and
    counted, and a line says how many when lines can be written again.

    Args:
        fd: descriptor of the file; it stays open.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._dropped = self._untold = 0
        self._idle = True  # nothing waits, nothing is being written
        self._thread: threading.Thread | None = None

    @property
    def dropped(self) -> int:
        """How many lines have been dropped."""
        return self._dropped

    def put(self, line: bytes) -> None:
        """Has a line written; without its end."""
        line = line[:_LONGEST_BYTES]
        with self._changed:
            if self._bytes + len(line) > _MOST_BYTES:
                self._count(1)
                return
            self._lines.append(line)
            self._bytes += len(line)
            self._idle = False
            self._start()
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> None:
        """Returns when everything is written or dropped, after so long at most."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle, timeout_s)

    def _start(self) -> None:
        if self._thread is None:
            # It may be in a write for ever, so nothing waits for it.
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            with contextlib.suppress(RuntimeError):  # no more threads; the next line tries again
                self._thread.start()
                return
            self._thread = None

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle = not self._lines
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines)
                lines, untold = [*self._lines], self._untold
                self._lines.clear()
                self._bytes = self._untold = 0
            told = [b"%d lines of the log were dropped" % untold] if untold else []
            if not self._write(b"".join(line + b"\n" for line in (*lines, *told))):
                with self._changed:
                    self._dropped += len(lines)
                    self._untold += untold + len(lines)
                time.sleep(_RETRY_S)

    def _write(self, data: bytes) -> bool:
        """Whether all was written."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                time.sleep(_RETRY_S)  # somebody has made it non-blocking
            except OSError:
                return False
        return True

    def _count(self, lines: int) -> None:
        self._dropped += lines
        self._untold += lines
