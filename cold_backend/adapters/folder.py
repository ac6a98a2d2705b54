"""The folder of adapters: which names are in it. Every call may hang."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from cold_backend.adapters.files import CONFIG, file_error
from cold_backend.config import is_adapter_name
from cold_backend.errors import UnknownAdapterError

_SHOWN = 20  # names in an error
_MOST_LOOKED_AT = 1000  # entries of the folder
_LISTED_S = 1.0  # so long a list is used again, and so long making it may take


class AdapterFolder:
    """Adapters by the names of their directories.

    Args:
        path: the folder; empty if there is none.
        fixed: names that are served besides, whatever the folder has.
    """

    def __init__(self, path: str, fixed: tuple[str, ...]) -> None:
        self._path = path
        self._fixed = fixed
        self._names: list[str] = []
        self._listed_s = float("-inf")

    def find(self, name: str) -> Path | None:
        """An adapter's directory; None if there is none.

        Raises:
            ConfigError: it cannot be looked at.
            AdapterUnreadableError: it cannot be looked at now.
        """
        if not self._path or not is_adapter_name(name):
            return None
        path = Path(self._path) / name
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise file_error(name, "its directory", error) from error
        return path if stat.S_ISDIR(status.st_mode) else None

    def unknown(self, name: str) -> UnknownAdapterError:
        """The error for a name that is not there; says which are."""
        if time.monotonic() > self._listed_s + _LISTED_S:
            self._names, self._listed_s = self._list(), time.monotonic()
        others = [other for other in self._names if other not in self._fixed]
        shown = others[:_SHOWN] + ["…"] * (len(others) > _SHOWN)
        known = ", ".join([*self._fixed, *shown]) or "none"
        return UnknownAdapterError("lora_name", f"no adapter {name!r}; served are: {known}")

    def _list(self) -> list[str]:
        """Names of directories that have an adapter's configuration."""
        ends_s = time.monotonic() + _LISTED_S
        names: list[str] = []
        if not self._path:
            return names
        try:
            with os.scandir(self._path) as entries:
                for number, entry in enumerate(entries):
                    if number == _MOST_LOOKED_AT or time.monotonic() > ends_s:
                        break
                    if is_adapter_name(entry.name) and Path(entry.path, CONFIG).is_file():
                        names.append(entry.name)
        except OSError:
            pass  # the error is about one name; the others are a courtesy
        return sorted(names)
