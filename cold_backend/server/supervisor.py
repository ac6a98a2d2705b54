"""Keeps a server running: notices when one of its processes dies or hangs, and starts it anew."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from cold_backend.errors import ConfigError
from cold_backend.server.process import ServerProcess

_INTERVAL_S = 0.2
_SHORT_LIFE_S = 10  # a server that fails so soon after it was ready is restarted later and later
_LONGEST_PAUSE_S = 30


class Supervisor:
    """Runs servers, one after the other, until it is told to stop.

    Args:
        start: starts a server, given how often it has been restarted.
        ready: is told how many seconds it took, whenever a server is ready.
        say: is told what goes wrong.
        start_timeout_s: how long a server may take to be ready.
    """

    def __init__(
        self,
        start: Callable[[int], ServerProcess],
        ready: Callable[[float], None],
        say: Callable[[str], None],
        start_timeout_s: float = math.inf,
    ) -> None:
        self._start = start
        self._ready = ready
        self._say = say
        self._start_timeout_s = start_timeout_s
        self._stop = threading.Event()
        self._hurried = False
        self._server: ServerProcess | None = None
        self._drain_s = 0.0
        self._restarts = 0
        self._ready_s = math.inf  # when the newest server was ready

    def stop(self, drain_s: float) -> None:
        """Has `run` return; may be called from a signal handler, and again to hurry.

        Args:
            drain_s: seconds that streams get to end by themselves. After the first call only 0 has
                an effect: it ends them at once, and if that has been asked for before, the server.
        """
        if not self._stop.is_set():
            self._drain_s = drain_s
        elif drain_s == 0 and self._hurried and self._server:
            self._server.abort()
        self._hurried |= drain_s == 0
        self._stop.set()

    def run(self) -> bool:
        """Works until `stop`; false if the first server did not become ready.

        Raises:
            ConfigError: the first server could not be started.
        """
        pause_s = 0.0
        while not self._stop.wait(pause_s):
            self._ready_s = math.inf
            failure = self._run_once()
            if failure is None:
                break
            self._say(failure)
            if not self._restarts:
                return False
            short = time.monotonic() - self._ready_s < _SHORT_LIFE_S
            pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s + 1) if short else 0.0
        return True

    def _run_once(self) -> str | None:
        """Runs a server until it fails, and says how, or until `stop`."""
        try:
            server = self._start(self._restarts)
        except ConfigError as error:
            if not self._restarts:
                raise
            return str(error)
        self._server = server
        try:
            failure = self._watch(server)
            # It may have become ready, and been asked things, since `_watch` last looked.
            if failure is None and (self._is_ready or server.is_ready):
                server.stop(self._drain_s, lambda: self._hurried)
        finally:
            server.kill()
        return failure

    @property
    def _is_ready(self) -> bool:
        """Whether the newest server has been."""
        return self._ready_s < math.inf

    def _watch(self, server: ServerProcess) -> str | None:
        begun_s = time.monotonic()
        while not server.is_ready:
            if server.exit_code is not None:
                ended = f"tritonserver ended by itself, exit code {server.exit_code}"
                return server.problem or ended
            if time.monotonic() - begun_s > self._start_timeout_s:
                return (
                    f"start_timeout_s: the server is not ready after {self._start_timeout_s:g} s; "
                    f"{server.state}"
                )
            if self._stop.wait(_INTERVAL_S):
                return None
        server.watch()
        self._ready_s = time.monotonic()
        self._ready(self._ready_s - begun_s)
        self._restarts += 1
        while not self._stop.wait(_INTERVAL_S):
            if server.failure:
                return f"{server.failure}; restarting"
        return None
