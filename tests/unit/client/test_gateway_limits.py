"""The gateway over real sockets: clients that are slow, large or many do not stop the others."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn

from cold_client import AsyncClient
from cold_client.gateway import create_app
from cold_client.gateway.cli import main
from cold_client.gateway.guard import guarded
from cold_client.gateway.limits import Limits

from .fake_grpc import HANG, FakeServer, piece

BODY: dict[str, Any] = {"model": "math", "prompt": "hi", "max_tokens": 1}
LIMITS = Limits(
    body_bytes=2 << 20,
    pending_bytes=3 << 20,
    body_timeout_s=1.0,
    header_timeout_s=1.0,
    connections=20,
)


@dataclass
class Gateway:
    """A gateway that runs.

    Attributes:
        server: what it asks.
    """

    port: int
    server: FakeServer

    def connect(self, *begun: bytes) -> socket.socket:
        """A connection over which something has been sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        for part in begun:
            connection.sendall(part)
        return connection

    def post(self, body: bytes | None = None) -> httpx.Response:
        url = f"http://127.0.0.1:{self.port}/v1/completions"
        return httpx.post(url, content=body or json.dumps(BODY).encode(), timeout=20)


@pytest.fixture
def gateway(server: FakeServer) -> Iterator[Gateway]:
    with running(server, LIMITS) as gateway:
        yield gateway


@contextlib.contextmanager
def running(server: FakeServer, limits: Limits) -> Iterator[Gateway]:
    server.parameters = {"adapters": '["math"]', "base_model": "tiny", "max_context": "64"}
    server.script = [piece("a", 1, final=True, finish_reason=("BYTES", ["stop"]))]
    app = create_app(AsyncClient(server.url, timeout_s=20), limits)
    gateway = uvicorn.Server(uvicorn.Config(app, port=0, http=guarded(limits), log_config=None))
    thread = threading.Thread(target=gateway.run)
    thread.start()
    give_up_s = time.monotonic() + 20
    while not gateway.started:
        assert time.monotonic() < give_up_s
        time.sleep(0.01)
    yield Gateway(gateway.servers[0].sockets[0].getsockname()[1], server)
    gateway.should_exit = gateway.force_exit = True
    thread.join(20)


def head(length: int) -> bytes:
    return (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % length
    )


def read_all(connection: socket.socket) -> bytes:
    received = b""
    with connection, contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            received += part
    return received


def error(answer: bytes) -> tuple[int, dict[str, Any]]:
    first, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in first.lower()
    return int(first.split()[1]), json.loads(body)["error"]


@pytest.mark.parametrize("sent", [b"", b'{"model": '], ids=["nothing", "a half"])
def test_a_body_that_does_not_come_to_its_end(sent: bytes, gateway: Gateway) -> None:
    status, said = error(read_all(gateway.connect(head(1000), sent)))
    assert status == 408
    assert said == {
        "message": "body: not complete after 1 s",
        "type": "invalid_request_error",
        "param": None,
        "code": "timeout",
    }
    assert gateway.post().status_code == 200


def test_a_body_that_drips(gateway: Gateway) -> None:
    """The limit is for the whole, not for each part."""
    connection = gateway.connect(head(1000))
    begun_s = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < begun_s + 15:
            connection.sendall(b" ")
            time.sleep(0.1)
            with contextlib.suppress(BlockingIOError):
                if connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK):
                    break
    assert error(read_all(connection))[0] == 408


@pytest.mark.parametrize("sent", [b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nA: ", b"P"])
def test_headers_that_do_not_come_to_their_end(sent: bytes, gateway: Gateway) -> None:
    status, said = error(read_all(gateway.connect(sent)))
    assert (status, said["message"]) == (408, "headers: not complete after 1 s")


def test_a_connection_over_which_nothing_comes(gateway: Gateway) -> None:
    assert read_all(gateway.connect()) == b""


def test_a_refused_body_does_not_hold_its_connection(gateway: Gateway) -> None:
    """It is answered at once, and what still comes of it is not waited for without end."""
    answer = read_all(gateway.connect(head(50 << 20), b"x" * 1000))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_half_sent_bodies_do_not_stop_others(gateway: Gateway) -> None:
    held = [gateway.connect(head(1000), b"{") for _ in range(LIMITS.connections - 1)]
    assert gateway.post().status_code == 200
    for connection in held:
        assert error(read_all(connection))[0] == 408


def test_who_holds_all_connections_keeps_no_others_out(server: FakeServer) -> None:
    """Long before the time limit."""
    limits = Limits(connections=6, body_timeout_s=600, header_timeout_s=600)
    with running(server, limits) as gateway:
        bodies = [gateway.connect(head(1000), b"{") for _ in range(3)]
        headers = [gateway.connect(b"POST /v1") for _ in range(3)]
        give_up_s = time.monotonic() + 20
        while (answer := gateway.post()).status_code == 503:
            assert time.monotonic() < give_up_s
            time.sleep(0.1)
        assert answer.status_code == 200
        assert [gateway.post().status_code for _ in range(9)] == [200] * 9
        cut, _, _ = select.select([*bodies, *headers], [], [], 20)
        assert len(cut) == 1
        assert error(read_all(cut[0]))[0] == 408
        for connection in (*bodies, *headers):
            connection.close()


def test_more_connections_than_allowed_are_refused(gateway: Gateway) -> None:
    held = [gateway.connect() for _ in range(LIMITS.connections)]
    answer = gateway.post()
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert answer.json()["error"] == {
        "message": "too many connections are open; try again in about 1 s",
        "type": "server_error",
        "param": None,
        "code": "unavailable",
    }
    assert error(read_all(gateway.connect()))[0] == 503
    for connection in held:
        connection.close()
    give_up_s = time.monotonic() + 20
    while gateway.post().status_code != 200:
        assert time.monotonic() < give_up_s


def test_connections_beyond_twice_as_many_are_cut(gateway: Gateway) -> None:
    held = [gateway.connect() for _ in range(3 * LIMITS.connections)]
    answers = [read_all(connection) for connection in held]
    assert sum(answer.startswith(b"HTTP/1.1 503") for answer in answers) == LIMITS.connections
    assert sum(not answer for answer in answers) == 2 * LIMITS.connections
    assert gateway.post().status_code == 200


def test_large_bodies_are_limited_in_all(gateway: Gateway) -> None:
    """Those that are being answered count too; small ones are received all the same."""
    gateway.server.script = [HANG]
    large = json.dumps(BODY | {"prompt": "x" * (1 << 20)}).encode()
    held = [gateway.connect(head(len(large)), large) for _ in range(8)]
    give_up_s = time.monotonic() + 20
    while True:
        answer = gateway.post(large)
        if answer.status_code == 503:
            break
        assert time.monotonic() < give_up_s
    assert answer.json()["error"]["message"].startswith("body: too many large bodies are being")
    gateway.server.script = [piece("a", 1, final=True, finish_reason=("BYTES", ["stop"]))]
    assert gateway.post().status_code == 200
    for connection in held:
        connection.close()
    while gateway.post(large).status_code != 200:
        assert time.monotonic() < give_up_s
        time.sleep(0.05)


def test_large_bodies_that_stop_half_way_make_room_again(gateway: Gateway) -> None:
    held = [gateway.connect(head(2 << 20), b"x" * (1 << 20)) for _ in range(6)]
    large = json.dumps(BODY | {"prompt": "x" * (1 << 20)}).encode()
    give_up_s = time.monotonic() + 20
    while gateway.post(large).status_code != 200:
        assert time.monotonic() < give_up_s
        time.sleep(0.05)
    for connection in held:
        connection.close()


@pytest.mark.parametrize("option", ["--max-connections", "--body-timeout-s", "--max-body-bytes"])
def test_limits_are_above_0(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([option, "0"]) == 2
    assert "must be above 0, got 0" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["closed", "full"])
def test_a_log_that_goes_nowhere_does_not_stop_the_gateway(output: str, server: FakeServer) -> None:
    server.parameters = {"adapters": '["math"]', "base_model": "tiny", "max_context": "64"}
    server.script = [piece("a", 1, final=True, finish_reason=("BYTES", ["stop"]))]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    read, write = os.pipe()
    if output == "closed":
        os.close(read)
    command = [sys.executable, "-m", "cold_client.gateway.cli", "--server", server.url]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=write, stderr=write)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
            give_up_s = time.monotonic() + 60
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if http.get("/health").status_code == 200:
                        break
                assert process.poll() is None
                assert time.monotonic() < give_up_s
                time.sleep(0.1)
            long = "x" * 4000
            for _ in range(30):  # 120 kB of lines
                assert http.get(f"/v1/models/{long}").status_code == 404
            assert http.post("/v1/completions", json=BODY).status_code == 200
    finally:
        process.terminate()
        assert process.wait(20) == 0
        os.close(write)
        if output == "full":
            os.close(read)
