"""Processes that die or hang, and SIGTERM, while requests run."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from safetensors.torch import load_file, save_file

from cold_client import Client, ColdClientError, InvalidRequest, Request, ServerUnavailable
from load_tests.server import Server, can_mount, mount
from tests.conftest import ROOT, free_ports
from tests.families import add_tokenizer, make_model
from tests.server.test_lifecycle import LONG, wait_ready

pytestmark = pytest.mark.server

ENDS_WITHIN_S = 2  # a request of a process that was killed


@dataclass
class Running:
    """A `cold-server` command."""

    grpc: str
    http: str
    metrics: str
    command: subprocess.Popen[bytes]

    def process(self, name: str) -> psutil.Process:
        """tritonserver, or the process of a model."""
        for process in psutil.Process(self.command.pid).children(recursive=True):
            if process.name() == name or f"/models/{name}/" in " ".join(process.cmdline()):
                return process
        raise LookupError(name)


# More than any test here needs; to fill the memory that it would take by itself lasts seconds.
KV_CACHE_BYTES = "200000000"


@contextmanager
def cold_server(
    base_model: Path,
    adapter: Path,
    *options: str,
    ports: Sequence[int] = (),
) -> Iterator[Running]:
    """The command while it runs, from when it is ready.

    Args:
        ports: of HTTP, gRPC and metrics; free ones unless they are given.
    """
    http, grpc, metrics = ports or free_ports(3)
    listen = ["--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics]
    command = [Path(sys.executable).parent / "cold-server", "--base-model", base_model]
    server = subprocess.Popen(
        [
            *map(str, command),
            *map(str, listen),
            *("--adapter", f"equations={adapter}", "--max-context", "640"),
            *("--kv-cache-bytes", KV_CACHE_BYTES, *options),
        ]
    )
    grpc_url, http_url = f"grpc://127.0.0.1:{grpc}", f"http://127.0.0.1:{http}"
    try:
        with Client(http_url) as client:  # its port opens last
            wait_ready(client)
        yield Running(grpc_url, http_url, f"http://127.0.0.1:{metrics}/metrics", server)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


@pytest.mark.parametrize(
    ("execution", "victim", "number"),
    [
        ("fused", "cold", signal.SIGSTOP),
        ("fused", "tritonserver", signal.SIGKILL),
        ("ensemble", "adapter_lm", signal.SIGKILL),
    ],
)
def test_a_dead_process_ends_its_requests_and_is_replaced(
    execution: str, victim: str, number: signal.Signals, base_model: Path, adapter: Path
) -> None:
    with cold_server(base_model, adapter, "--execution", execution) as server:
        ended: list[tuple[BaseException, float]] = []

        def stream(url: str) -> None:
            with Client(url) as client:
                try:
                    for _ in client.stream(LONG):
                        pass
                except ColdClientError as error:
                    ended.append((error, time.monotonic()))

        threads = [threading.Thread(target=stream, args=(u,)) for u in (server.grpc, server.http)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        killed_s = time.monotonic()
        server.process(victim).send_signal(number)
        for thread in threads:
            thread.join(30)
        assert len(ended) == 2
        assert all(at_s - killed_s < ENDS_WITHIN_S for _, at_s in ended)
        assert "Traceback" not in " ".join(str(error) for error, _ in ended)
        with Client(server.grpc) as client:
            wait_ready(client)
            assert client.generate(Request(text_input="Hello", max_tokens=3)).token_ids
        time.sleep(1)
        assert "cold_restarts 1" in httpx.get(server.metrics).text


def test_nothing_outlives_a_supervisor_that_is_killed(
    base_model: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # which it cannot tidy up
    with cold_server(base_model, adapter) as server, Client(server.grpc) as client:
        children = psutil.Process(server.command.pid).children(recursive=True)
        (workspace,) = tmp_path.glob("cold-server-*")
        with client.stream(LONG) as stream:
            next(iter(stream))
            server.command.kill()
            with pytest.raises(ServerUnavailable):
                for _ in stream:
                    pass
        _, alive = psutil.wait_procs(children, timeout=30)
    assert len(children) == 3  # tritonserver, `cold`, and the shell that watches
    assert not alive
    assert not workspace.exists()
    assert not [*Path("/dev/shm").glob(f"{workspace.name}*")]


def test_nothing_outlives_a_parent_that_is_killed_while_models_load(
    base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    http, grpc, metrics = free_ports(3)
    code = (
        "import sys, time\n"
        "from cold_backend.config import Settings\n"
        "from cold_backend.server.process import Endpoints, ServerProcess\n"
        f"ports = Endpoints(http_port={http}, grpc_port={grpc}, metrics_port={metrics})\n"
        f"process = ServerProcess(Settings(base_model={str(base_model)!r}), ports)\n"
        "print('started', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert children
    assert not alive
    assert not [*tmp_path.iterdir()]


def test_ctrl_c_ends_a_drain_that_sighup_began(base_model: Path, adapter: Path) -> None:
    with cold_server(base_model, adapter) as server, Client(server.grpc) as client:
        with client.stream(LONG) as stream:
            pieces = iter(stream)
            next(pieces)
            server.command.send_signal(signal.SIGHUP)
            time.sleep(0.5)
            next(pieces)  # it goes on
            server.command.send_signal(signal.SIGINT)
            with pytest.raises(ServerUnavailable, match="shutting down"):
                for _ in pieces:
                    pass
        assert server.command.wait(20) == 0


@pytest.mark.skipif(not can_mount(), reason="needs a /dev/shm of its own")
def test_a_request_that_hangs_and_shared_memory_that_is_full(
    base_model: Path, adapter: Path, tmp_path: Path
) -> None:
    ports, log, hang = free_ports(3), tmp_path / "log", tmp_path / "hang"
    arguments = [*("--base-model", base_model), *("--adapter", f"equations={adapter}")]
    arguments += [*("--http-port", ports[0], "--grpc-port", ports[1], "--metrics-port", ports[2])]
    arguments += [*("--max-context", 640, "--accept-timeout-s", 2)]
    command = [sys.executable, ROOT / "load_tests/hanging_server.py", *arguments]
    again = [Path(sys.executable).parent / "cold-server", *arguments]
    server = Server(
        [*map(str, command)],
        http=ports[0],
        metrics=ports[2],
        log=log,
        environment={"COLD_HANG": str(hang)},
        shared_bytes=64 << 20,
    )
    try:
        while server.find("tritonserver") is None:
            time.sleep(0.1)
        second = subprocess.run([*map(str, again)], capture_output=True, text=True, timeout=60)
        assert second.returncode == 1
        assert "another cold-server runs or starts there" in second.stderr

        server.await_ready()
        filler = server.shared_memory / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        with Client(f"grpc://127.0.0.1:{ports[1]}", timeout_s=30) as client:
            assert client.generate(Request(text_input="Hello", max_tokens=2)).token_ids
            with pytest.raises(ServerUnavailable, match="short of shared memory") as refused:
                client.generate("x" * (20 << 20))
            assert "cold-server-" not in str(refused.value)
            filler.unlink()
            with pytest.raises(InvalidRequest, match="text_input"):
                client.generate("x" * (20 << 20))

            old = server.find("tritonserver")
            hang.touch()
            with pytest.raises(ServerUnavailable):
                client.generate("Hello", timeout_s=60)
            hang.unlink()
            server.await_ready(old)
            assert "accept_timeout_s" in log.read_text()
            assert client.generate(Request(text_input="Hello", max_tokens=2)).token_ids
    finally:
        assert not server.stop()


@pytest.mark.skipif(not can_mount(), reason="needs a /dev/shm of its own")
def test_too_little_shared_memory_is_one_line(base_model: Path) -> None:
    command = [Path(sys.executable).parent / "cold-server", "--base-model", base_model]
    ports = free_ports(3)
    names = ("--http-port", "--grpc-port", "--metrics-port")
    listen = [part for pair in zip(names, ports, strict=True) for part in pair]
    done = subprocess.run(
        [*mount(8 << 20), *map(str, [*command, *listen])],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("cold-server: /dev/shm: 16 MB are needed")


def test_what_only_the_models_process_sees_is_one_line_too(
    base_model: Path, tmp_path: Path
) -> None:
    model = make_model("llama", tmp_path / "model", vocab_size=49152)
    add_tokenizer(model, base_model)
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    names = ("--http-port", "--grpc-port", "--metrics-port")
    listen = [part for pair in zip(names, free_ports(3), strict=True) for part in pair]
    command = [Path(sys.executable).parent / "cold-server", "--base-model", model, *listen]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("cold-server: base_model: ")
    assert "model.norm.weight" in last


def test_sigterm_lets_running_requests_end(base_model: Path, adapter: Path) -> None:
    request = dataclasses.replace(LONG, max_tokens=200)
    with cold_server(base_model, adapter) as server, Client(server.grpc) as client:
        with client.stream(request) as stream:
            pieces = iter(stream)
            next(pieces)
            server.command.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{server.http}/v2/health/ready")
            with pytest.raises(ServerUnavailable):
                client.generate("Hello")
            *_, last = pieces
        assert last.finish_reason == "length"
        assert server.command.wait(30) == 0


def test_sigterm_ends_what_takes_too_long(base_model: Path, adapter: Path) -> None:
    limit = ("--drain-timeout-s", "1")
    with cold_server(base_model, adapter, *limit) as server, Client(server.grpc) as client:
        with client.stream(LONG) as stream:
            next(iter(stream))
            server.command.send_signal(signal.SIGTERM)
            with pytest.raises(ServerUnavailable, match="shutting down"):
                for _ in stream:
                    pass
        assert server.command.wait(30) == 0


def test_a_damaged_adapter_does_not_keep_the_others_down(
    base_model: Path, adapter: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in adapter.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    with cold_server(base_model, adapter, "--adapter", f"copy={copy}") as server:
        (copy / "adapter_model.safetensors").write_bytes(b"broken")
        killed_s = time.monotonic()
        server.process("cold").kill()
        with Client(server.grpc) as client:
            while server_restarts(server) < 1:
                assert time.monotonic() - killed_s < 120
                time.sleep(0.2)
            with pytest.raises(ColdClientError, match="no adapter 'copy'"):
                client.generate(Request(text_input="Hello", lora_name="copy"))
            assert client.generate(Request(text_input="Hello", max_tokens=3)).token_ids


def server_restarts(server: Running) -> int:
    try:
        text = httpx.get(server.metrics).text
    except httpx.HTTPError:
        return 0
    return next((int(x.split()[1]) for x in text.splitlines() if x.startswith("cold_restarts ")), 0)
