"""A tritonserver process from start to clean end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from cold_backend.config import Settings
from cold_backend.errors import ConfigError
from cold_backend.server.installation import find_tritonserver
from cold_backend.server.output import Output
from cold_backend.server.repository import write_repository
from cold_backend.server.tracing import SERVICE, trace_options

_DEAD = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD, psutil.STATUS_STOPPED)
_SHARED_MEMORY = Path("/dev/shm")
_SHARED_MEMORY_BYTES = 16 << 20  # of each model process; two vocabulary-wide rows are 0.4 MB
_STACK_KB = 256 << 10  # reserved for each thread, not taken
_STREAMS_TIMEOUT_S = 10  # for `cold` to end its streams
# What the last responses get to reach their clients: a gRPC stream that is still closing when
# tritonserver is told to stop keeps its model loaded until the exit timeout.
_SETTLE_S = 0.5
_EXIT_TIMEOUT_S = 8  # streams have ended by then; what is left is unloading
_KILL_S = 2  # what a tritonserver gets that was told to stop while streams were open


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where the server listens.

    Attributes:
        host: address; loopback unless told otherwise.
    """

    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002

    def check_free(self) -> None:
        """Raises ConfigError if a port cannot be had."""
        for name in ("http_port", "grpc_port", "metrics_port"):
            port = getattr(self, name)
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                # As the servers do: connections of an earlier run that linger are no obstacle.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.host, port))
                except (OSError, OverflowError) as error:
                    reason = getattr(error, "strerror", None) or error
                    raise ConfigError(f"{name}: {self.host}:{port}: {reason}") from error


class ServerProcess:
    """A running tritonserver with the CoLD models; a context manager that stops it.

    Args:
        settings: what to serve.
        endpoints: where to listen.
        verbose: let tritonserver print its own information and warnings.
        extra: further arguments for tritonserver.
        restarts: how often the server has been restarted, for its metrics.

    Raises:
        ConfigError: a port is taken, or there is no tritonserver.
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

        endpoints.check_free()
        self._settings = settings
        self._fused = is_fused(settings)
        self._restarts = restarts
        self._endpoints = endpoints
        self._watched: list[psutil.Process] = []
        self._workspace = Path(tempfile.mkdtemp(prefix="cold-server-"))
        self._lifeline_path = self._workspace / "lifeline"
        self._shared_memory_prefix = self._workspace.name + "-"
        try:
            self._lifeline = self._open_lifeline()
            command = self._command(verbose, extra)
        except BaseException:
            shutil.rmtree(self._workspace)
            raise
        # A session of its own: Ctrl-C in a terminal reaches this process alone, which then ends
        # the streams before it stops tritonserver.
        self._process = subprocess.Popen(
            command.arguments,
            env=command.environment,
            start_new_session=True,
            bufsize=0,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
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
        """Whether the server says that all models are loaded."""
        host = f"[{self._endpoints.host}]" if ":" in self._endpoints.host else self._endpoints.host
        host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
        url = f"http://{host}:{self._endpoints.http_port}/v2/health/ready"
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    @property
    def failure(self) -> str | None:
        """What is wrong with the server's processes; None if nothing is.

        tritonserver goes on, and says that it is ready, when the process of a model is dead.
        """
        for process in self._watched:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() not in _DEAD:
                    continue
            return f"process {process.pid} of the server is dead or stopped"
        return None

    def watch(self) -> None:
        """Takes note of the processes that there are, for `failure`."""
        server = psutil.Process(self._process.pid)
        self._watched = [server, *server.children(recursive=True)]

    def stop(self, drain_s: float = 0) -> None:
        """Ends the running streams, then the server; nothing of it is left behind.

        Args:
            drain_s: seconds that streams get to end by themselves. Meanwhile the server is not
                ready, and refuses new requests.
        """
        if self._lifeline < 0:
            return
        if drain_s:
            # tritonserver closes its HTTP port at once, but waits for open streams.
            self._process.terminate()
            os.write(self._lifeline, b"d")
            self._wait_for_streams(drain_s)
        os.close(self._lifeline)
        self._lifeline = -1
        self._wait_for_streams(_STREAMS_TIMEOUT_S)
        time.sleep(_SETTLE_S)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILL_S if drain_s else _EXIT_TIMEOUT_S + 5)
        self.kill()

    def kill(self) -> None:
        """Ends the server at once, and its streams with it; nothing of it is left behind."""
        # Model processes outlive a tritonserver that is killed alone.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.join()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        for region in _SHARED_MEMORY.glob(self._shared_memory_prefix + "*"):
            region.unlink(missing_ok=True)
        shutil.rmtree(self._workspace, ignore_errors=True)

    def _wait_for_streams(self, timeout_s: float) -> None:
        """Waits until `cold` has ended its streams; it then removes the pipe."""
        give_up_s = time.monotonic() + timeout_s
        while (
            self._lifeline_path.exists()
            and self.exit_code is None
            and time.monotonic() < give_up_s
            and not self.failure
        ):
            time.sleep(0.05)

    def _open_lifeline(self) -> int:
        """Writes what the models read; returns the pipe whose end tells them to stop."""
        settings_file = self._workspace / "settings.json"
        self._settings.save(settings_file)
        path = self._lifeline_path
        os.mkfifo(path)
        write_repository(
            self._workspace / "models",
            self._settings,
            {"settings": str(settings_file)},
            {"lifeline": str(path), "restarts": str(self._restarts)},
            fused=self._fused,
        )
        # Open for both directions, so that opening does not wait for the reader.
        return os.open(path, os.O_RDWR)

    def _command(self, verbose: bool, extra: Sequence[str]) -> _Command:
        installation = find_tritonserver(self._workspace)
        e = self._endpoints
        options = {
            "model-repository": self._workspace / "models",
            "http-address": e.host,
            "grpc-address": e.host,
            "metrics-address": e.host,
            "http-port": e.http_port,
            "grpc-port": e.grpc_port,
            "metrics-port": e.metrics_port,
            "exit-timeout-secs": int(self._settings.drain_timeout_s) + _EXIT_TIMEOUT_S,
            "log-info": str(verbose).lower(),
            "log-warning": str(verbose).lower(),
        }
        shared_memory = {
            "shm-region-prefix-name": self._shared_memory_prefix,
            "shm-default-byte-size": _SHARED_MEMORY_BYTES,
            "shm-growth-byte-size": _SHARED_MEMORY_BYTES,
        }
        arguments = [
            str(installation.binary),
            *installation.arguments,
            # The configs are complete, and completing them would import every model once more.
            "--disable-auto-complete-config",
            *(f"--{name}={value}" for name, value in options.items()),
            *(f"--backend-config=python,{name}={value}" for name, value in shared_memory.items()),
            *trace_options(self._settings),
            *extra,
        ]
        # The reader of JSON is recursive, in release 2.51 without limit: at the usual 8 MB, 120 kB
        # of brackets end the process. The shell that sets the limit becomes tritonserver.
        limited = ["/bin/sh", "-c", f'ulimit -Ss {_STACK_KB} || true; exec "$0" "$@"', *arguments]
        # The model processes take the first python3 on the PATH: this one.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        return _Command(
            limited,
            self._threads() | SERVICE | os.environ | installation.environment | {"PATH": path},
        )

    def _threads(self) -> dict[str, str]:
        """How the model processes' threads behave, unless the environment says otherwise."""
        # Two threads that wait for each other must not share a core, which they may for
        # milliseconds when the server itself is on the other one. Processes with one thread each
        # would all be bound to the first core.
        return {"OMP_PROC_BIND": "true"} if self._fused else {}


@dataclass(frozen=True, slots=True)
class _Command:
    arguments: list[str]
    environment: dict[str, str]


def wait_until(condition: Callable[[], bool], *, stopped: Callable[[float], bool]) -> bool:
    """Polls until the condition holds (true) or `stopped(seconds)` says to give up (false)."""
    while not condition():
        if stopped(0.2):
            return False
    return True
