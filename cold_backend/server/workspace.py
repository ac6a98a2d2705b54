"""A server's directory of its own and its shared memory; what killed servers left is removed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from cold_backend.errors import ConfigError

SHARED_MEMORY = Path("/dev/shm")
_PREFIX = "cold-server-"
_OWNER = "owner"  # a file that is locked while the server's parent lives


class Workspace:
    """A new directory for one server.

    Attributes:
        path: the directory.
        lifeline: named pipe whose end tells the models to stop; a byte in it, to drain.
        pulse: see `Pulse`.
        problem: where a model's process writes why it cannot serve its model.
        shared_memory_prefix: of the names of the server's regions in /dev/shm.
    """

    def __init__(self) -> None:
        remove_orphans()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self.lifeline = self.path / "lifeline"
        self.pulse = self.path / "pulse"
        self.problem = self.path / "problem"
        self.shared_memory_prefix = f"{self.path.name}-"
        self._lock = _lock(self.path / _OWNER)
        os.mkfifo(self.lifeline)

    def remove(self) -> None:
        """Removes the directory and the shared memory; the server must have ended."""
        _remove(self.path)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def remove_orphans() -> None:
    """Removes what servers left here that were killed together with all who would tidy up."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # One that is just being made has no owner's file yet.
        if not (path / _OWNER).is_file() or path.stat().st_uid != os.getuid():
            continue
        with contextlib.suppress(OSError):
            lock = _lock(path / _OWNER)
            _remove(path)
            os.close(lock)


def check_shared_memory(processes: int, bytes_each: int) -> None:
    """Checks that there is room for the models' regions.

    Raises:
        ConfigError: /dev/shm is too small, or too full.
    """
    needed, free = processes * bytes_each, shutil.disk_usage(SHARED_MEMORY).free
    if free < needed:
        raise ConfigError(
            f"{SHARED_MEMORY}: {needed >> 20} MB are needed, {processes} x {bytes_each >> 20} MB, "
            f"and {free >> 20} MB are free; Docker's --shm-size sets how much there is"
        )


def _lock(path: Path) -> int:
    """Creates and locks a file; raises OSError if another process has locked it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise
    return file


def _remove(path: Path) -> None:
    for region in SHARED_MEMORY.glob(f"{path.name}-*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
