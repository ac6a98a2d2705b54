"""Checked adapters on their way from their files into the models."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future

from cold_backend.adapters.adapter import Adapter
from cold_backend.adapters.files import Stamp
from cold_backend.adapters.loader import AdapterLoader
from cold_backend.adapters.reader_pool import ReaderPool, Reading
from cold_backend.errors import AdapterUnreadableError

READ_LIMIT_S = 30.0


class AdapterStore:
    """Keeps what was read until a model takes it; reads what it does not have. Safe for threads.

    Args:
        loader: reads and checks.
        max_bytes: of the adapters that are kept; the one kept for longest makes way.

    Attributes:
        pool: the threads on which adapters are read.
        pace: holds these back while steps are executed.
    """

    def __init__(self, loader: AdapterLoader, max_bytes: int = 0) -> None:
        self.pool = ReaderPool()
        self.pace = loader.pace
        self._loader = loader
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._adapters: OrderedDict[tuple[str, Stamp], Adapter] = OrderedDict()

    def read(self, name: str, path: str) -> Adapter:
        """Reads an adapter, on this thread, and keeps it. Errors as of `AdapterLoader.load`."""
        adapter = self._loader.load(name, path)
        with self._lock:
            self._adapters[name, adapter.stamp] = adapter
            while sum(kept.bytes for kept in self._adapters.values()) > self._max_bytes:
                self._adapters.popitem(last=False)
        return adapter

    def take(self, name: str, path: str, stamp: Stamp) -> Future[Adapter]:
        """An adapter as its files were when it got a stamp; it is not kept any longer.

        Returns:
            It, at once if it is here. A ReadTimeoutError or what `AdapterLoader.load` raises if it
            had to be read and could not be.

        Raises:
            ReadersBusyError: it would have to be read, and cannot be.
        """
        with self._lock:
            adapter = self._adapters.pop((name, stamp), None)
        if adapter is not None:
            found: Future[Adapter] = Future()
            found.set_result(adapter)
            return found

        def read(_: Reading) -> Adapter:
            adapter = self._loader.load(name, path)
            if adapter.stamp != stamp:
                raise AdapterUnreadableError(name, "changed before it was loaded")
            return adapter

        return self.pool.submit(f"{name} (to be loaded)", read, READ_LIMIT_S)
