"""Which adapters requests may ask for: those named in the settings, and those in a folder."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cold_backend.adapters.adapter import find_adapter_stamp
from cold_backend.adapters.defaults import FILE, read_defaults
from cold_backend.adapters.files import Stamp, find_stamp
from cold_backend.adapters.folder import AdapterFolder
from cold_backend.adapters.notes import find_notes
from cold_backend.adapters.reader_pool import (
    ReaderPool,
    ReadersBusyError,
    Reading,
    ReadTimeoutError,
)
from cold_backend.adapters.served import ServedAdapter
from cold_backend.adapters.store import READ_LIMIT_S, AdapterStore
from cold_backend.config import Settings
from cold_backend.errors import (
    AdapterUnreadableError,
    ColdError,
    ConfigError,
    InvalidRequestError,
)

_log = logging.getLogger(__name__)

_FRESH_S = 2.0  # after a look there is none for as long as it took, or so long at most
LOOK_LIMIT_S = 1.0  # so long a request waits for a look at the files of an adapter that is known
_MOST_KNOWN = 4096


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is known of an adapter in the folder.

    Attributes:
        defaults_stamp: of its cold.json.
        problem: what is wrong with it; empty if nothing.
        fresh_s: time.monotonic until which its files need not be looked at again.
    """

    served: ServedAdapter
    defaults_stamp: Stamp
    problem: str
    fresh_s: float = 0.0


class AdapterCatalogue:
    """Finds adapters by name; safe for threads.

    A directory is read when it is first asked for and when its files have changed, so that a
    broken adapter is refused before anything is decoded with it. Everything that touches the
    folder runs on the threads of a pool. If a look at a known adapter's files hangs, it is served
    as it is known.

    Args:
        settings: adapters by name, and the folder.
        store: reads those in the folder; None if there is no folder.

    Raises:
        ConfigError: the defaults of an adapter in the settings are malformed.
    """

    def __init__(self, settings: Settings, store: AdapterStore | None) -> None:
        self._store = store
        self._base_model = settings.base_model
        self._pool = store.pool if store else ReaderPool()
        self._folder = AdapterFolder(settings.adapters_dir, tuple(settings.adapters))
        self._fixed = {"": ServedAdapter("")} | {
            name: ServedAdapter(name, defaults=read_defaults(Path(path), name))
            for name, path in settings.adapters.items()
        }
        self._entries: dict[str, _Entry] = {}

    def known(self, name: str) -> ServedAdapter | None:
        """The adapter, if it can be told without a lock and without the file system.

        Returns:
            None if `read` or `reading` has to look at its files.

        Raises:
            InvalidRequestError: it is known that it cannot be used; of `lora_name`, as all here.
        """
        served = self._fixed.get(name)
        if served is not None:
            return served
        entry = self._entries.get(name)
        if entry is None:
            return None
        if time.monotonic() > entry.fresh_s and not self._pool.hangs(name):
            return None
        return _usable(entry)

    def reading(self, name: str) -> Future[ServedAdapter]:
        """Has a look at an adapter's files and reads them if they have changed.

        Returns:
            What `read` returns or raises, within READ_LIMIT_S. Its callbacks are called on a thread
            of the pool and must not take long.
        """
        found: Future[ServedAdapter] = Future()
        entry = self._entries.get(name)
        known = entry if entry and not entry.problem else None
        limit_s = LOOK_LIMIT_S if known else READ_LIMIT_S

        def hand_on(looked: Future[ServedAdapter]) -> None:
            error = looked.exception()
            if error is None:
                found.set_result(looked.result())
            elif known and isinstance(error, ReadTimeoutError) and self._entries.get(name) is known:
                found.set_result(known.served)
            else:
                found.set_exception(_error(name, error))

        try:
            if name in self._fixed:
                found.set_result(self._fixed[name])
            else:
                looking = self._pool.submit(name, partial(self._look, name), limit_s)
                looking.add_done_callback(hand_on)
        except ReadersBusyError as error:
            found.set_exception(_error(name, error))
        return found

    def read(self, name: str) -> ServedAdapter:
        """Like `reading`, on a thread that may wait.

        Raises:
            InvalidRequestError: it cannot be used.
            UnknownAdapterError: there is none of that name.
            AdapterUnreadableError: it could not be read, but may be later.
        """
        return self.reading(name).result()

    def _look(self, name: str, reading: Reading) -> ServedAdapter:
        begun_s = time.monotonic()
        path = self._folder.find(name)
        if path is None:
            self._entries.pop(name, None)
            raise self._folder.unknown(name)
        stamps = find_adapter_stamp(name, str(path)), find_stamp(name, path, FILE)
        took_s = time.monotonic() - begun_s
        entry = self._entries.get(name)
        if entry is None or (entry.served.stamp, entry.defaults_stamp) != stamps:
            if entry:
                reading.give_more_time(READ_LIMIT_S)
            entry = self._read(name, path, stamps, entry)
        if not entry.problem:  # on a slow disk half of the time passes without a look
            entry = replace(entry, fresh_s=time.monotonic() + min(took_s, _FRESH_S))
        if len(self._entries) >= _MOST_KNOWN:
            self._entries.clear()
        self._entries[name] = entry
        return _usable(entry)

    def _read(
        self, name: str, path: Path, stamps: tuple[Stamp, Stamp], known: _Entry | None
    ) -> _Entry:
        served, problem = ServedAdapter(name, str(path), stamps[0]), ""
        try:
            served = replace(served, defaults=read_defaults(path, name))
            if self._store and (known is None or known.problem or known.served != served):
                stamp = self._store.read(name, str(path)).stamp
                if stamp != stamps[0]:
                    raise AdapterUnreadableError(name, "changed while it was read")
                for note in find_notes(name, path, self._base_model):
                    _log.warning("%s", note)
        except AdapterUnreadableError:
            raise  # it says nothing of the adapter
        except ConfigError as error:
            problem = str(error)
        return _Entry(served, stamps[1], problem)


def _usable(entry: _Entry) -> ServedAdapter:
    if entry.problem:
        raise InvalidRequestError("lora_name", entry.problem)
    return entry.served


def _error(name: str, error: BaseException) -> ColdError:
    """What a request is told."""
    if isinstance(error, ReadTimeoutError):
        return AdapterUnreadableError(name, f"was not read within {READ_LIMIT_S:g} s")
    if isinstance(error, ReadersBusyError):
        return AdapterUnreadableError(name, f"cannot be read now: {error}")
    if isinstance(error, ConfigError) and not isinstance(error, AdapterUnreadableError):
        return InvalidRequestError("lora_name", str(error))
    if isinstance(error, ColdError):
        return error
    _log.error("an adapter could not be read", exc_info=error)
    return ColdError("internal error")
