"""What tritonserver and the models print, passed on so that they never wait for who reads it."""

from __future__ import annotations

import os
import subprocess
import threading

from cold_backend.telemetry.logs import pass_on

_CHUNK_BYTES = 1 << 16
_END_S = 1.0  # what is read after the processes have ended


class Output:
    """Passes a process's standard output on as lines of this process's log, until it ends.

    Args:
        process: with its output in an unbuffered pipe, which nothing else reads.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is None:
            raise ValueError("its output is in no pipe")
        self._pipe = process.stdout
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Returns when the pipe has ended, or after a second: some other process may hold it."""
        self._thread.join(_END_S)

    def _run(self) -> None:
        with self._pipe:
            rest = b""
            while chunk := os.read(self._pipe.fileno(), _CHUNK_BYTES):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > _CHUNK_BYTES:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    pass_on(line)
            if rest:
                pass_on(rest)
