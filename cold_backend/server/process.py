"""A tritonserver process from start to clean end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from types import TracebackType

import psutil

from cold_backend.config import Settings
from cold_backend.server.backlog import Backlog
from cold_backend.server.endpoints import Endpoints as Endpoints
from cold_backend.server.launch import EXIT_TIMEOUT_S, SHARED_MEMORY_BYTES, Launch
from cold_backend.server.liveness import Liveness
from cold_backend.server.printed import Output
from cold_backend.server.repository import write_repository
from cold_backend.server.workspace import Workspace, check_shared_memory
from cold_backend.serving.pulse import read_pulse

_DEAD = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD, psutil.STATUS_STOPPED)
_ENSEMBLE = 4  # model processes
_STREAMS_TIMEOUT_S = 10  # for `cold` to end its streams
# What the last responses get to reach their clients: a gRPC stream that is still closing when
# tritonserver is told to stop keeps its model loaded until the exit timeout.
_SETTLE_S = 0.5
_KILL_S = 2  # what a tritonserver gets that was told to stop while streams were open


class ServerProcess:
    """A running tritonserver with the CoLD models; a context manager that stops it.

    It ends as well when the process that made it is killed.

    Args:
        settings: what to serve.
        endpoints: where to listen.
        verbose: let tritonserver print its own information and warnings.
        extra: further arguments for tritonserver.
        restarts: how often the server has been restarted, for its metrics.

    Raises:
        ConfigError: a port is taken, /dev/shm is too small, or there is no tritonserver.
    """

    def __init__(
        self,
        settings: Settings,
        endpoints: Endpoints,
        *,
        verbose: bool = False,
        extra: Sequence[str] = (),
        restarts: int = 0,
    ) -> None:
        # Imported late: `cold-server --help` should not wait for torch.
        from cold_backend.loading import is_fused

        self._settings = settings
        self._endpoints = endpoints
        self._watched: list[psutil.Process] = []
        self._lifeline = -1
        fused = is_fused(settings)
        with contextlib.ExitStack() as undo:
            self._claim = undo.enter_context(endpoints.claim())
            self._workspace = Workspace()
            undo.callback(self._workspace.remove)
            check_shared_memory(1 if fused else _ENSEMBLE, SHARED_MEMORY_BYTES)
            self._write_models(fused, restarts)
            launch = Launch(settings, endpoints, self._workspace, verbose, extra, fused)
            lifeline, self._watcher = os.pipe()
            undo.callback(os.close, self._watcher)
            try:
                self._process = launch.start(lifeline)
            finally:
                os.close(lifeline)
            # Open for both directions, so that opening does not wait for the reader.
            self._lifeline = os.open(self._workspace.lifeline, os.O_RDWR)
            undo.pop_all()
        self._backlog = Backlog(endpoints.metrics_url)
        self._liveness = Liveness(
            lambda: read_pulse(self._workspace.pulse),
            self._backlog.waits,
            settings.accept_timeout_s,
            settings.step_timeout_s,
        )
        self._output = Output(self._process)

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def exit_code(self) -> int | None:
        """Of the process; None while it runs."""
        return self._process.poll()

    @property
    def is_ready(self) -> bool:
        """Whether the server, not another one on its port, says that all models are loaded."""
        if not self._endpoints.is_served_by(self._process.pid):
            return False
        try:
            url = f"{self._endpoints.http_url}/v2/health/ready"
            with urllib.request.urlopen(url, timeout=2) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    @property
    def failure(self) -> str | None:
        """What is wrong with the server's processes; None if nothing is.

        tritonserver goes on, and says that it is ready, when a model's process is dead or hangs.
        """
        for process in self._watched:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() not in _DEAD:
                    continue
            return f"process {process.pid} of the server is dead or stopped"
        return self._liveness.failure

    @property
    def problem(self) -> str:
        """Why a model cannot be served, as its process says; empty if none says so."""
        with contextlib.suppress(OSError):
            return self._workspace.problem.read_text(encoding="utf-8")
        return ""

    @property
    def state(self) -> str:
        """What its processes are doing, for a person."""
        shown = []
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                used_s = times.user + times.system
                shown.append(f"{_name(process)} is {process.status()}, {used_s:.0f} s of CPU")
        return "; ".join(shown)

    def watch(self) -> None:
        """Takes note of the processes that there are, for `failure`."""
        self._watched = self._processes()

    def _processes(self) -> list[psutil.Process]:
        server = psutil.Process(self._process.pid)
        return [server, *server.children(recursive=True)]

    def stop(self, drain_s: float = 0, hurried: Callable[[], bool] = lambda: False) -> None:
        """Ends the running streams, then the server; nothing of it is left behind.

        Args:
            drain_s: seconds that streams get to end by themselves. Meanwhile the server is not
                ready, and refuses new requests.
            hurried: whether they no longer get them.
        """
        if self._lifeline < 0:
            return
        if drain_s:
            # tritonserver closes its HTTP port at once, but waits for open streams.
            self._process.terminate()
            os.write(self._lifeline, b"d")
            self._wait_for_streams(drain_s, hurried)
        os.close(self._lifeline)
        self._lifeline = -1
        self._wait_for_streams(_STREAMS_TIMEOUT_S)
        time.sleep(_SETTLE_S)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILL_S if drain_s else EXIT_TIMEOUT_S + 5)
        self.kill()

    def abort(self) -> None:
        """Has the server end at once; for signal handlers. `kill` still has to follow."""
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """Ends the server at once, and its streams with it; nothing of it is left behind."""
        if self._watcher < 0:
            return
        # Model processes outlive a tritonserver that is killed alone.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.join()
        self._backlog.close()
        for pipe in (self._lifeline, self._watcher):
            if pipe >= 0:
                os.close(pipe)
        self._lifeline = self._watcher = -1
        self._workspace.remove()
        self._claim.close()

    def _wait_for_streams(
        self, timeout_s: float, hurried: Callable[[], bool] = lambda: False
    ) -> None:
        """Waits until `cold` has ended its streams; it then removes the pipe."""
        give_up_s = time.monotonic() + timeout_s
        while (
            self._workspace.lifeline.exists()
            and self.exit_code is None
            and time.monotonic() < give_up_s
            and not self.failure
            and not hurried()
        ):
            time.sleep(0.05)

    def _write_models(self, fused: bool, restarts: int) -> None:
        settings_file = self._workspace.path / "settings.json"
        self._settings.save(settings_file)
        for_cold = {
            "lifeline": str(self._workspace.lifeline),
            "pulse": str(self._workspace.pulse),
            "restarts": str(restarts),
        }
        write_repository(
            self._workspace.path / "models",
            self._settings,
            {"settings": str(settings_file), "problem": str(self._workspace.problem)},
            for_cold,
            fused=fused,
        )


def _name(process: psutil.Process) -> str:
    """The model whose process it is, or the program."""
    model = re.search(r"/models/(\w+)/", " ".join(process.cmdline()))
    return model[1] if model else process.name()


def wait_until(condition: Callable[[], bool], *, stopped: Callable[[float], bool]) -> bool:
    """Polls until the condition holds (true) or `stopped(seconds)` says to give up (false)."""
    while not condition():
        if stopped(0.2):
            return False
    return True
