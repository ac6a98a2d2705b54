"""Adapters on their way into a running model, a piece at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass

from cold_backend.adapters.adapter import Adapter
from cold_backend.adapters.files import Stamp
from cold_backend.adapters.reader_pool import ReadersBusyError, ReadTimeoutError
from cold_backend.adapters.store import READ_LIMIT_S, AdapterStore
from cold_backend.contract import AdapterChange, AdapterReport
from cold_backend.errors import AdapterUnreadableError, ConfigError

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Load:
    change: AdapterChange
    read: Future[Adapter]
    pieces: Iterator[None] | None = None  # once it has been read


class AdapterLoads:
    """Loads adapters beside the steps, and says what came of each.

    Args:
        put: puts an adapter to an index, piece by piece.
        store: where adapters come from; None if there is no room for any.
    """

    def __init__(
        self, put: Callable[[int, Adapter], Iterator[None]], store: AdapterStore | None
    ) -> None:
        self._put = put
        self._store = store
        self._here: dict[int, tuple[str, Stamp]] = {}  # in its place, by index
        self._loads: dict[int, _Load] = {}
        self._reports: list[AdapterReport] = []

    def announce(self, changes: Iterable[AdapterChange]) -> None:
        """Begins to load adapters. What is loaded or being loaded already is not loaded again."""
        for change in changes:
            index, load = change.index, self._loads.get(change.index)
            if self._here.get(index) == (change.name, change.stamp):
                self._report(change)
            elif load is None or (load.change.name, load.change.stamp) != (
                change.name,
                change.stamp,
            ):
                self._here.pop(index, None)
                self._loads.pop(index, None)
                try:
                    self._loads[index] = _Load(change, self._take(change))
                except (ReadersBusyError, ConfigError) as error:
                    self._report(change, error)

    def advance(self, budget_s: float, *, patience_s: float = 0) -> list[AdapterReport]:
        """Puts what has been read into its place, as far as there is time.

        Args:
            budget_s: after so long no further piece is begun; one always is.
            patience_s: how long to wait if there is nothing to do yet.

        Returns:
            On all that ended since the last call.
        """
        if patience_s and self._loads and not self._reports:
            wait([load.read for load in self._loads.values()], patience_s, FIRST_COMPLETED)
        ends_s = time.monotonic() + budget_s
        for load in [load for load in self._loads.values() if load.read.done()]:
            if self._go_on(load, ends_s):
                del self._loads[load.change.index]
            if time.monotonic() >= ends_s:
                break
        reports, self._reports = self._reports, []
        return reports

    def _go_on(self, load: _Load, ends_s: float) -> bool:
        """Whether a load has ended."""
        change = load.change
        try:
            if load.pieces is None:
                load.pieces = self._put(change.index, load.read.result())
            for _ in load.pieces:
                if time.monotonic() >= ends_s:
                    return False
        except Exception as error:  # whatever is wrong with it, the step's rows have other adapters
            self._report(change, error)
        else:
            self._here[change.index] = change.name, change.stamp
            self._report(change)
        return True

    def _take(self, change: AdapterChange) -> Future[Adapter]:
        if self._store is None:
            raise ConfigError("there is no room for adapters")
        return self._store.take(change.name, change.path, change.stamp)

    def _report(self, change: AdapterChange, error: Exception | None = None) -> None:
        problem, passing = "", error is not None and not isinstance(error, ConfigError)
        if isinstance(error, AdapterUnreadableError):
            problem, passing = error.reason, True
        elif isinstance(error, ConfigError):
            problem = str(error)
        elif isinstance(error, ReadTimeoutError):
            problem = f"was not read within {READ_LIMIT_S:g} s"
        elif isinstance(error, ReadersBusyError):
            problem = f"cannot be read now: {error}"
        elif error is not None:
            problem = "could not be loaded"
            _log.error("adapter %s could not be loaded", change.name, exc_info=error)
        self._reports.append(
            AdapterReport(change.index, change.name, change.stamp, problem, passing)
        )
