"""A `cold-server` under test: its processes, and what it holds."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from cold_client import AdapterNotFound, Client, InvalidRequest, Request
from load_tests.stderr import Stderr

_SHARED_MEMORY = Path("/dev/shm")
_PREFIX = re.compile(r"shm-region-prefix-name=(\S+)")
_IDLE_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a server holds when it is idle.

    Attributes:
        memory_bytes: resident memory of all its processes.
        shared_bytes: its regions in /dev/shm.
        busy: metrics that should be 0 and are not: sequences, and the KV cache in use.
    """

    memory_bytes: int
    shared_bytes: int
    busy: dict[str, float]


class Server:
    """A server that was started for a test.

    Args:
        command: `cold-server` with its options.
        http, metrics: its ports.
        log: file for what it writes on standard error.
        environment: beside this process's.
        shared_bytes: a /dev/shm of its own, of that size; 0 for this machine's.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        http: int,
        metrics: int,
        log: Path,
        environment: Mapping[str, str] | None = None,
        shared_bytes: int = 0,
    ) -> None:
        self._http = f"http://127.0.0.1:{http}"
        self._metrics = f"http://127.0.0.1:{metrics}/metrics"
        self.stderr = Stderr(log)
        self._process = subprocess.Popen(
            [*(mount(shared_bytes) if shared_bytes else ()), *command],
            stderr=self.stderr.pipe,
            env={**os.environ, **(environment or {})},
        )
        os.close(self.stderr.pipe)
        self._seen: set[psutil.Process] = set()
        self._prefixes: set[str] = set()  # of shared memory, a new one after each restart

    def processes(self) -> list[psutil.Process]:
        """`cold-server` and all that it started."""
        root = psutil.Process(self._process.pid)
        found = [root, *root.children(recursive=True)]
        for process in {*found} - self._seen:
            with contextlib.suppress(psutil.Error):
                self._prefixes |= {*_PREFIX.findall(" ".join(process.cmdline()))}
        self._seen |= {*found}
        return found

    def find(self, name: str) -> psutil.Process | None:
        """tritonserver, or the process of a model; None while there is none."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if process.name() == name or f"/models/{name}/" in " ".join(process.cmdline()):
                    return process
        return None

    def await_ready(self, after: psutil.Process | None = None) -> float:
        """Waits until the server is ready.

        Args:
            after: the tritonserver that must have been replaced by then: one of which a model's
                process is dead calls itself ready.

        Returns:
            Seconds that it took.

        Raises:
            ChildProcessError: `cold-server` ended.
        """
        begun_s = time.monotonic()
        while True:
            if self._process.poll() is not None:
                raise ChildProcessError("cold-server ended")
            found = self.find("tritonserver")
            if found and found != after and self._is_ready():
                return time.monotonic() - begun_s
            time.sleep(0.1)

    def serves(self, adapter: str) -> bool:
        """Whether it decodes with an adapter now."""
        request = Request(text_input="Hello", lora_name=adapter, max_tokens=1)
        with Client(self._http) as client:
            try:
                client.generate(request)
            except (AdapterNotFound, InvalidRequest):
                return False
        return True

    @property
    def shared_memory(self) -> Path:
        """Its /dev/shm, which may be its own."""
        return Path(f"/proc/{self._process.pid}/root{_SHARED_MEMORY}")

    def holdings(self) -> Holdings:
        """What it holds once it is idle, or after half a minute if it never is."""
        give_up_s = time.monotonic() + _IDLE_TIMEOUT_S
        while (busy := self._busy()) and time.monotonic() < give_up_s:
            time.sleep(0.5)
        return Holdings(
            sum(process.memory_info().rss for process in self.processes()),
            sum(path.stat().st_size for path in self._regions()),
            busy,
        )

    def cpu_s(self) -> float:
        """Seconds of CPU time that its processes have taken."""
        times = [process.cpu_times() for process in self.processes()]
        return sum(time.user + time.system for time in times)

    def stop(self) -> list[str]:
        """Ends the server as Ctrl-C does; returns what is left of it: processes, shared memory."""
        if self._process.poll() is None:
            self.processes()
        self._process.send_signal(signal.SIGINT)
        self._process.wait()
        _, alive = psutil.wait_procs(self._seen, timeout=5)
        self.stderr.close()
        return [*map(str, alive), *map(str, self._regions())]

    def _is_ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self._http}/v2/health/ready", timeout=1).is_success
        return False

    def _busy(self) -> dict[str, float]:
        names = ("cold_running_sequences", "cold_waiting_sequences", "cold_kv_used_ratio")
        lines = httpx.get(self._metrics).text.splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if line.startswith(names))
        return {name: float(value) for name, value in values.items() if float(value)}

    def _regions(self) -> list[Path]:
        # A /dev/shm of its own goes with its last process.
        folders = (_SHARED_MEMORY, self.shared_memory)
        found = {
            (path.name, path.stat().st_ino): path
            for folder in folders
            for prefix in self._prefixes
            for path in folder.glob(f"{prefix}*")
        }
        return [*found.values()]


def can_mount() -> bool:
    """Whether a server may have a /dev/shm of its own here."""
    try:
        return subprocess.run([*mount(1 << 20), "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def mount(size: int) -> list[str]:
    """What comes before a command, so that it has a /dev/shm of its own, of so many bytes."""
    mount = f'mount -t tmpfs -o size={size} tmpfs {_SHARED_MEMORY} && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
