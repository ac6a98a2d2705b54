"""Requests that end early, servers that stop: nothing is lost and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from cold_client import AsyncClient, Client, ColdClientError, Request, ServerUnavailable
from tests.conftest import Server, free_ports

pytestmark = pytest.mark.server

LONG = Request(text_input="Once upon a time", decoding="base", ignore_eos=True, max_tokens=600)
SHARED_MEMORY = Path("/dev/shm")


def occupy(url: str, count: int = 15) -> contextlib.ExitStack:
    """Streams that hold all slots but one."""
    stack = contextlib.ExitStack()
    client = stack.enter_context(Client(url))
    for _ in range(count):
        next(iter(stack.enter_context(client.stream(LONG))))
    return stack


def answers_quickly(url: str) -> None:
    """A slot is free: a request is answered while 15 streams hold the others."""
    with Client(url, timeout_s=20) as client:
        result = client.generate(Request(text_input="Hello", decoding="base", max_tokens=1))
    assert len(result.token_ids) == 1


def cancel_grpc(server: Server) -> None:
    with Client(server.grpc) as client, client.stream(LONG) as stream:
        next(iter(stream))


def drop_http(server: Server) -> None:
    body = {"text_input": "Once", "stream": True, "ignore_eos": True, "max_tokens": 600}
    url = f"{server.http}/v2/models/cold/generate_stream"
    with httpx.stream("POST", url, json=body, timeout=30) as response:
        next(response.iter_lines())


def kill_client(server: Server) -> None:
    code = (
        "from cold_client import Client, Request\n"
        f"with Client({server.grpc!r}) as client:\n"
        "    request = Request(text_input='Once', ignore_eos=True, max_tokens=600)\n"
        "    for piece in client.stream(request):\n"
        "        print(piece.text, flush=True)\n"
    )
    client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    if client.stdout is None or not client.stdout.readline():
        pytest.fail("the client got no answer")
    client.kill()
    client.wait()
    client.stdout.close()


@pytest.mark.parametrize("leave", [cancel_grpc, drop_http, kill_client])
def test_a_client_that_goes_away_frees_its_slot(
    leave: Callable[[Server], None], server: Server
) -> None:
    with occupy(server.grpc):
        leave(server)
        answers_quickly(server.grpc)


async def test_two_hundred_mixed_requests_with_random_cancels(server: Server) -> None:
    """Each ends exactly once; afterwards every slot is free and shared memory has not grown."""
    chance = random.Random(5)
    before = shared_memory_bytes(server)

    async def one(client: AsyncClient, number: int) -> str:
        request = Request(
            text_input="word " * chance.randint(1, 60),
            decoding=chance.choice(["cold", "greedy", "base"]),
            max_tokens=chance.randint(1, 12),
            temperature=chance.choice([0.0, 0.9]),
            alpha=chance.choice([0.1, 0.1, 0.1, 7.0]),
        )
        await asyncio.sleep(chance.random() * 10)
        try:
            async with client.stream(request, timeout_s=200) as stream:
                async for _ in stream:
                    if number % 5 == 0:
                        return "cancelled"
            return "finished"
        except ColdClientError as error:
            return type(error).__name__

    async with AsyncClient(server.grpc) as client:
        ends = await asyncio.gather(*(one(client, number) for number in range(200)))

    assert len(ends) == 200
    assert set(ends) == {"finished", "cancelled", "InvalidRequest"}
    with occupy(server.grpc):
        answers_quickly(server.grpc)
    assert shared_memory_bytes(server) <= before


def shared_memory_bytes(server: Server) -> int:
    """What this server has; others may run beside it."""
    port = server.http.rpartition(":")[2]
    for process in psutil.Process().children(recursive=True):
        options = dict(part.partition("=")[::2] for part in process.cmdline())
        if options.get("--http-port") == port:
            (prefix,) = re.findall(r"shm-region-prefix-name=(\S+)", " ".join(process.cmdline()))
            return sum(p.stat().st_size for p in SHARED_MEMORY.glob(f"{prefix}*"))
    raise LookupError(port)


def test_port_in_use_is_one_line(server: Server, base_model: Path) -> None:
    port = server.http.rpartition(":")[2]
    command = [str(Path(sys.executable).parent / "cold-server"), "--base-model", str(base_model)]
    done = subprocess.run(
        [*command, "--http-port", port], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert (
        done.stderr.strip().splitlines()[-1].startswith(f"cold-server: http_port: 127.0.0.1:{port}")
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("execution", "models"), [("fused", 1), ("ensemble", 4)])
def test_stopping_ends_streams_and_leaves_nothing(
    execution: str,
    models: int,
    number: signal.Signals,
    base_model: Path,
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    http, grpc, metrics = free_ports(3)
    config = tmp_path / "cold.toml"
    config.write_text(
        f'base_model = "{base_model}"\nmax_sequences = 2\nmax_context = 640\n'
        f'execution = "{execution}"\ndrain_timeout_s = 0\n'
        f"http_port = {http}\ngrpc_port = {grpc}\nmetrics_port = {metrics}\n"
        f'[adapters]\nequations = "{adapter}"\n'
    )
    server = subprocess.Popen(
        [Path(sys.executable).parent / "cold-server", "--config", config], stderr=subprocess.PIPE
    )
    try:
        with Client(f"grpc://127.0.0.1:{grpc}") as client:
            wait_ready(client)
            children = psutil.Process(server.pid).children(recursive=True)
            assert len(children) >= 1 + models  # tritonserver and its Python models
            (workspace,) = tmp_path.glob("cold-server-*")
            assert [*SHARED_MEMORY.glob(f"{workspace.name}*")]
            with client.stream(LONG) as stream:
                next(iter(stream))
                server.send_signal(number)
                with pytest.raises(ServerUnavailable, match="shutting down"):
                    for _ in stream:
                        pass
        assert server.wait(40) == 0
    finally:
        server.kill()
        server.communicate()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    assert not workspace.exists()
    assert not [*SHARED_MEMORY.glob(f"{workspace.name}*")]


def wait_ready(client: Client) -> None:
    give_up = time.monotonic() + 180
    while time.monotonic() < give_up:
        with contextlib.suppress(ServerUnavailable):
            if client.health().ready:
                return
        time.sleep(0.3)
    pytest.fail("the server did not become ready")
