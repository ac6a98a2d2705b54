"""What keeps a server alive, without a server: signs of life, ports, workspaces, stops."""

from __future__ import annotations

import fcntl
import math
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cold_backend.errors import ConfigError
from cold_backend.server import backlog as backlogs
from cold_backend.server import workspace as workspaces
from cold_backend.server.liveness import Liveness
from cold_backend.server.process import Endpoints, ServerProcess
from cold_backend.server.supervisor import Supervisor
from cold_backend.server.workspace import SHARED_MEMORY, Workspace, check_shared_memory
from cold_backend.serving.pulse import Pulse, Signs, read_pulse
from tests.conftest import free_ports


class Scene:
    """A liveness with a clock and signs of its own."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.beating = True
        self.accepting_s = self.stepping_s = self.accepted = 0.0
        self.waits = False
        self._beat_s = 100.0
        self.liveness = Liveness(self._signs, lambda: self.waits, 20, 300, lambda: self.now_s)

    def _signs(self) -> Signs:
        if self.beating:
            self._beat_s = self.now_s
        return Signs(self._beat_s, self.accepting_s, self.stepping_s, self.accepted)

    def after(self, seconds: float, *, look_s: float = 0.5) -> str | None:
        """What is found at the end of so many seconds, or before."""
        for _ in range(math.ceil(seconds / look_s)):
            self.now_s += look_s
            if found := self.liveness.failure:
                return found
        return None


def test_a_request_that_hangs_is_noticed() -> None:
    scene = Scene()
    assert scene.after(1000) is None
    scene.accepting_s = scene.now_s
    assert scene.after(19) is None
    assert "accept_timeout_s" in (scene.after(5) or "")


def test_requests_that_wait_while_none_is_taken_in_are_noticed() -> None:
    scene = Scene()
    scene.waits = True
    for _ in range(10):
        scene.accepted += 1
        assert scene.after(15) is None
    assert "accept_timeout_s" in (scene.after(15) or "")
    scene.waits = False
    assert scene.after(100) is None


def metrics(pending: float) -> bytes:
    return (
        "# TYPE nv_inference_pending_request_count gauge\n"
        'nv_inference_pending_request_count{model="base_lm",version="1"} 7.000000\n'
        f'nv_inference_pending_request_count{{model="cold",version="1"}} {pending:f}\n'
    ).encode()


def test_what_waits_is_read_from_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlogs, "_INTERVAL_S", 0.05)
    pages = {"page": metrics(0)}

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(pages["page"])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        backlog = backlogs.Backlog(f"http://127.0.0.1:{server.server_address[1]}/metrics")
        for page, waits in ((metrics(2), True), (b"", False), (metrics(1), True)):
            pages["page"] = page
            give_up_s = time.monotonic() + 10
            while backlog.waits() is not waits:
                assert time.monotonic() < give_up_s
        server.shutdown()
    while backlog.waits():  # nobody answers any more
        assert time.monotonic() < give_up_s + 10
    backlog.close()


def test_many_requests_are_no_hang() -> None:
    scene = Scene()
    for _ in range(100):
        scene.accepting_s = scene.now_s
        assert scene.after(5) is None


def test_a_step_that_hangs_is_noticed() -> None:
    scene = Scene()
    scene.stepping_s = scene.now_s
    assert scene.after(299) is None
    assert "step_timeout_s" in (scene.after(5) or "")


def test_a_process_without_a_beat_is_noticed() -> None:
    scene = Scene()
    assert scene.after(5) is None
    scene.beating = False
    assert scene.after(18) is None
    assert "has not run" in (scene.after(5) or "")


def test_a_step_may_hold_the_lock_and_a_request_may_wait_for_it() -> None:
    scene = Scene()
    scene.after(5)
    scene.stepping_s, scene.beating = scene.now_s, False
    scene.accepting_s = scene.now_s
    assert scene.after(250) is None
    scene.beating = True  # the request has yet to run
    assert scene.after(10) is None
    scene.stepping_s = scene.accepting_s = 0.0
    assert scene.after(100) is None


def test_a_machine_that_slept_has_not_hung() -> None:
    scene = Scene()
    scene.after(5)
    scene.accepting_s, scene.beating = scene.now_s, False
    assert scene.after(3600, look_s=3600) is None


def test_before_the_first_beat_nothing_is_wrong() -> None:
    liveness = Liveness(lambda: Signs(0, 0, 0, 0), lambda: False, 20, 300, lambda: 1e9)
    assert liveness.failure is None


def test_a_pulse_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "pulse"
    assert read_pulse(path) == Signs(0, 0, 0, 0)
    pulse, begun_s = Pulse(path), time.monotonic()
    while not read_pulse(path).beat_s:
        assert time.monotonic() < begun_s + 10
    beat_s = read_pulse(path).beat_s
    with pulse.accepting(), pulse.stepping():
        signs = read_pulse(path)
        assert begun_s <= signs.accepting_s <= signs.stepping_s <= time.monotonic()
    while read_pulse(path).beat_s == beat_s:
        assert time.monotonic() < begun_s + 10
    assert (read_pulse(path).accepting_s, read_pulse(path).stepping_s) == (0, 0)
    pulse.close()


def endpoints(count: int = 1) -> list[Endpoints]:
    """So many, that share no port."""
    ports = iter(free_ports(3 * count))
    return [
        Endpoints(http_port=next(ports), grpc_port=next(ports), metrics_port=next(ports))
        for _ in range(count)
    ]


@pytest.mark.parametrize("port", ["http_port", "grpc_port", "metrics_port"])
def test_a_port_is_claimed_by_one_server(port: str) -> None:
    first, second, third = endpoints(3)
    object.__setattr__(second, port, getattr(first, port))
    with first.claim():
        with pytest.raises(ConfigError, match=rf"^{port}: .*another cold-server"):
            second.claim()
        with third.claim():
            pass
    with second.claim():
        pass


def test_a_port_that_others_have_is_refused_and_claims_nothing() -> None:
    (ours,) = endpoints()
    with (
        socket.create_server(("127.0.0.1", ours.metrics_port)),
        pytest.raises(ConfigError, match=r"^metrics_port: .*in use"),
    ):
        ours.claim()
    with ours.claim():
        pass


def test_ready_is_who_listens() -> None:
    (ours,) = endpoints()
    assert not ours.is_served_by(os.getpid())
    with socket.create_server(("127.0.0.1", ours.http_port)):
        assert ours.is_served_by(os.getpid())
        assert not ours.is_served_by(os.getppid())
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    assert not ours.is_served_by(gone.pid)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(workspaces.tempfile, "tempdir", str(tmp_path))  # type: ignore[attr-defined]
    return tmp_path


def test_a_workspace_takes_its_shared_memory_with_it(temporary: Path) -> None:
    workspace = Workspace()
    region = SHARED_MEMORY / f"{workspace.shared_memory_prefix}region"
    region.write_bytes(b"1")
    assert workspace.lifeline.is_fifo()
    workspace.remove()
    workspace.remove()
    assert not [*temporary.iterdir()]
    assert not region.exists()


def test_orphans_are_removed_and_others_are_not(temporary: Path) -> None:
    alive, orphan, being_made = Workspace(), Workspace(), temporary / "cold-server-new"
    being_made.mkdir()
    os.close(orphan._lock)  # as when its process is killed
    region = SHARED_MEMORY / f"{orphan.shared_memory_prefix}region"
    region.write_bytes(b"1")
    newest = Workspace()
    assert {*temporary.iterdir()} == {alive.path, being_made, newest.path}
    assert not region.exists()
    with (alive.path / "owner").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for workspace in (alive, newest):
        workspace.remove()


def test_too_little_shared_memory_is_refused_with_what_is_needed() -> None:
    check_shared_memory(1, 1 << 20)
    with pytest.raises(ConfigError, match=r"^/dev/shm: 4194304 MB are needed, 4 x 1048576 MB"):
        check_shared_memory(4, 1 << 40)


class FakeServer:
    """Stands in for a tritonserver."""

    def __init__(self, *, ready: bool = True) -> None:
        self.is_ready = ready
        self.exit_code: int | None = None
        self.failure: str | None = None
        self.problem = ""
        self.state = "cold is sleeping"
        self.stopped: list[str] = []
        self.aborted = threading.Event()
        self.draining = threading.Event()

    def watch(self) -> None:
        pass

    def stop(self, drain_s: float, hurried: object) -> None:
        assert callable(hurried)
        self.draining.set()
        give_up_s = time.monotonic() + drain_s
        while time.monotonic() < give_up_s and not hurried():
            time.sleep(0.01)
        self.stopped.append("hurried" if hurried() else "drained")
        if drain_s > 100:
            self.aborted.wait(10)

    def abort(self) -> None:
        self.aborted.set()

    def kill(self) -> None:
        self.stopped.append("killed")


def supervise(server: FakeServer, *, start_timeout_s: float = 60) -> tuple[Supervisor, list[str]]:
    said: list[str] = []

    def start(_: int) -> ServerProcess:
        return server  # type: ignore[return-value]

    return Supervisor(start, lambda _: None, said.append, start_timeout_s), said


def test_a_server_that_is_never_ready_is_given_up() -> None:
    server = FakeServer(ready=False)
    supervisor, said = supervise(server, start_timeout_s=0.5)
    assert not supervisor.run()
    assert said == [
        "start_timeout_s: the server is not ready after 0.5 s; cold is sleeping",
    ]
    assert server.stopped == ["killed"]


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        ("base_model: has no weights", "base_model: has no weights"),
        ("", "tritonserver ended by itself, exit code 1"),
    ],
)
def test_a_server_that_ends_at_its_start_says_why(problem: str, expected: str) -> None:
    server = FakeServer(ready=False)
    server.exit_code, server.problem = 1, problem
    supervisor, said = supervise(server)
    assert not supervisor.run()
    assert said == [expected]


def test_a_server_that_only_loads_is_not_drained() -> None:
    server = FakeServer(ready=False)
    supervisor, _ = supervise(server)
    threading.Timer(0.3, supervisor.stop, (1000,)).start()
    assert supervisor.run()
    assert server.stopped == ["killed"]


def test_a_server_that_has_just_become_ready_is_drained() -> None:
    server = FakeServer(ready=False)
    supervisor, _ = supervise(server)

    def stop() -> None:
        supervisor.stop(0.1)
        server.is_ready = True

    threading.Timer(0.3, stop).start()
    assert supervisor.run()
    assert server.stopped == ["drained", "killed"]


def test_ctrl_c_shortens_a_drain_and_a_second_one_ends_the_server() -> None:
    server = FakeServer()
    supervisor, _ = supervise(server)
    running = threading.Thread(target=supervisor.run)
    running.start()
    time.sleep(0.3)  # ready by then
    supervisor.stop(1000)
    assert server.draining.wait(10)
    supervisor.stop(1000)  # SIGTERM again: no matter
    assert not server.stopped
    supervisor.stop(0)
    give_up_s = time.monotonic() + 10
    while not server.stopped:
        assert time.monotonic() < give_up_s
    assert server.stopped == ["hurried"]
    assert not server.aborted.is_set()
    supervisor.stop(0)
    running.join(10)
    assert server.aborted.is_set()
    assert server.stopped == ["hurried", "killed"]
