"""The files of an adapter's directory, read so that nothing under it can make a reader wait.

Only regular files are opened, and never waited for: neither pipes nor devices, nor files of the
kernel's, which look regular and have no size. Nothing is mapped into memory, because a file that is
cut short would then end the process.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from cold_backend.adapters.pace import Pace
from cold_backend.errors import AdapterUnreadableError, ConfigError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
Stamp = tuple[int, ...]

MAX_JSON_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 20
# What is wrong with a file as long as nobody changes it. Any other error may pass.
_LASTING = frozenset(
    (
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
        *(errno.EACCES, errno.EPERM, errno.ENXIO, errno.ENODEV, errno.EINVAL),
    )
)


class AdapterFile:
    """One of an adapter's files, open. A context manager.

    Args:
        adapter: what requests call it.
        directory: of the adapter.
        name: of the file.

    Attributes:
        size: bytes.
        stamp: changes when the file does.

    Raises:
        ConfigError: it is missing, or no regular file; with its name, without its path.
        AdapterUnreadableError: it could not be opened, but may be later.
    """

    def __init__(self, adapter: str, directory: Path, name: str) -> None:
        self._adapter = adapter
        self._name = name
        path = directory / name
        try:
            # Before it is opened, because opening a device can have effects, and after it.
            self._check(os.stat(path))
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            self._descriptor = os.open(path, flags)
        except OSError as error:
            raise file_error(adapter, name, error) from error
        try:
            status = os.fstat(self._descriptor)
            self._check(status)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.size = status.st_size
        self.stamp = _stamp(status)

    def __enter__(self) -> AdapterFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes it."""
        os.close(self._descriptor)

    def problem(self, text: str) -> ConfigError:
        """An error that names the adapter and the file, not where they are."""
        return _problem(self._adapter, self._name, text)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from an offset on, which must be in the file. Errors as of `read_into`."""
        content = bytearray(length)
        self.read_into(memoryview(content), offset)
        return bytes(content)

    def read_into(self, target: memoryview, offset: int, pace: Pace | None = None) -> None:
        """Fills a buffer of bytes.

        Raises:
            AdapterUnreadableError: the file could not be read, or has been cut short.
        """
        done = 0
        while done < len(target):
            try:
                block = target[done : done + _BLOCK_BYTES]
                count = os.preadv(self._descriptor, [block], offset + done)
            except OSError as error:
                raise file_error(self._adapter, self._name, error) from error
            if not count:
                raise AdapterUnreadableError(self._adapter, "changed while it was read")
            done += count
            if pace:
                pace.rest()

    def read_json(self) -> dict[str, Any]:
        """The file's object.

        Raises:
            ConfigError: it is too large, or not a JSON object.
            AdapterUnreadableError: it could not be read.
        """
        if self.size > MAX_JSON_BYTES:
            raise self.problem(f"at most {MAX_JSON_BYTES} bytes")
        try:
            values = json.loads(self.read(0, self.size))
        except (ValueError, RecursionError) as error:
            raise self.problem(str(error)[:200]) from error
        if not isinstance(values, dict):
            raise self.problem("must be a JSON object")
        return values

    def _check(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise self.problem("is not a file")
        if not status.st_size:
            raise self.problem("is empty")


def find_stamp(adapter: str, directory: Path, name: str) -> Stamp:
    """A file's stamp; empty if there is none of that name.

    Raises:
        ConfigError: it cannot be looked at.
        AdapterUnreadableError: it cannot be looked at now.
    """
    try:
        return _stamp(os.stat(directory / name))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise file_error(adapter, name, error) from error


def _stamp(status: os.stat_result) -> Stamp:
    """What changes when a file does: also when it is replaced, or written to with its time kept."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def file_error(adapter: str, name: str, error: OSError) -> ConfigError:
    """What an error of the system's means: the adapter's fault, or one that may pass."""
    if error.errno == errno.ENOENT:
        return ConfigError(f"adapter {adapter}: has no {name}")
    reason = os.strerror(error.errno) if error.errno else "cannot be read"
    if error.errno in _LASTING:
        return _problem(adapter, name, reason)
    return AdapterUnreadableError(adapter, f"could not be read: {name}: {reason}")


def _problem(adapter: str, name: str, text: str) -> ConfigError:
    return ConfigError(f"adapter {adapter}: {name}: {text}")
