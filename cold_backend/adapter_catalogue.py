"""Which adapters requests may ask for: those named in the settings, and those in a folder."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from cold_backend.adapter_defaults import AdapterDefaults, read_defaults
from cold_backend.adapter_loader import AdapterLoader
from cold_backend.adapters import FILES
from cold_backend.config import Settings, is_adapter_name
from cold_backend.errors import ConfigError, InvalidRequestError, UnknownAdapterError

_SHOWN = 20  # names in an error


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """An adapter as it was when a request asked for it.

    Attributes:
        name: empty for the base model alone.
        path: its directory; empty for one that the models have from the start.
        stamp: changes when its files do.
        defaults: how it is decoded; they may change by themselves.
    """

    name: str
    path: str = ""
    stamp: tuple[int, ...] = ()
    defaults: AdapterDefaults = field(default=AdapterDefaults(), compare=False)


class AdapterCatalogue:
    """Finds adapters by name; safe for threads.

    A directory is read when it is first asked for and when its files have changed, so that a
    broken adapter is refused before anything is decoded with it.

    Args:
        settings: adapters by name, and the folder.
        loader: reads those in the folder; None if there is no folder.

    Raises:
        ConfigError: the defaults of an adapter in the settings are malformed.
    """

    def __init__(self, settings: Settings, loader: AdapterLoader | None) -> None:
        self._settings = settings
        self._loader = loader
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, "reader")
        self._fixed = {"": ServedAdapter("")} | {
            name: ServedAdapter(name, defaults=read_defaults(Path(path)))
            for name, path in settings.adapters.items()
        }
        self._results: dict[str, tuple[ServedAdapter, str]] = {}  # and what is wrong with it

    def known(self, name: str) -> ServedAdapter | None:
        """The adapter, if it can be told without the file system."""
        return self._fixed.get(name)

    def reading(self, name: str) -> Future[ServedAdapter]:
        """Has a look at an adapter's files and reads them if they have changed."""
        return self._pool.submit(self.find, name)

    def is_read(self, name: str) -> bool:
        """Whether `find` answers at once."""
        return self._result(self._current(name)) is not None

    def find(self, name: str) -> ServedAdapter:
        """The adapter of that name, which may be empty.

        Raises:
            InvalidRequestError: it cannot be used.
            UnknownAdapterError: there is none of that name.
        """
        if name in self._fixed:
            return self._fixed[name]
        with self._lock:
            served = self._current(name)
            problem = self._result(served)
            if problem is None:
                problem = self._read(served)
                self._results[name] = served, problem
        if problem:
            raise InvalidRequestError("lora_name", problem)
        try:
            return replace(served, defaults=read_defaults(Path(served.path)))
        except ConfigError as error:
            raise InvalidRequestError("lora_name", str(error)) from error

    def _current(self, name: str) -> ServedAdapter:
        if name in self._fixed:
            return self._fixed[name]
        path = check_served(self._settings, name)
        try:
            files = [(path / file).stat() for file in FILES]
        except OSError:
            return ServedAdapter(name, str(path))
        stamp = (
            number for file in files for number in (file.st_ino, file.st_size, file.st_mtime_ns)
        )
        return ServedAdapter(name, str(path), tuple(stamp))

    def _result(self, served: ServedAdapter) -> str | None:
        """What is wrong with an adapter, empty if nothing; None if it has to be read."""
        if not served.path:
            return ""
        known, problem = self._results.get(served.name, (None, ""))
        return problem if known == served else None

    def _read(self, served: ServedAdapter) -> str:
        try:
            if self._loader is not None:
                self._loader.load(served.name, served.path)
        except ConfigError as error:
            return str(error)
        return ""


def check_served(settings: Settings, name: str) -> Path:
    """Checks that an adapter is named in the settings or is a directory in the folder.

    Returns:
        The directory.

    Raises:
        UnknownAdapterError: it is neither.
    """
    if name in settings.adapters:
        return Path(settings.adapters[name])
    folder = Path(settings.adapters_dir)
    if settings.adapters_dir and is_adapter_name(name) and (folder / name).is_dir():
        return folder / name
    known = ", ".join([*settings.adapters, *_names_in(settings)]) or "none"
    raise UnknownAdapterError(f"lora_name: no adapter {name!r}; served are: {known}")


def _names_in(settings: Settings) -> list[str]:
    if not settings.adapters_dir:
        return []
    try:
        entries = [path.name for path in islice(Path(settings.adapters_dir).iterdir(), 1000)]
    except OSError:
        return []
    names = sorted(filter(is_adapter_name, entries))
    return names[:_SHOWN] + ["…"] * (len(names) > _SHOWN)
