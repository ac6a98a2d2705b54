from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from cold_client import (
    AdapterNotFound,
    AsyncClient,
    Client,
    ColdClientError,
    Health,
    InvalidRequest,
    Model,
    Piece,
    ProtocolError,
    RequestCancelled,
    RequestTimeout,
    ServerError,
    ServerUnavailable,
)
from cold_client._protocol import unpack

from .fake_grpc import HANG, FakeServer, failure, piece, reply

STOP = ("BYTES", ["stop"])
WHOLE = [piece("a", 1), piece("", 2), piece("b", 3, finish_reason=STOP), reply(final=True)]
CODES: list[tuple[Any, type[ColdClientError]]] = [
    (failure("alpha: no [invalid_argument]"), InvalidRequest),
    (failure("lora_name: no adapter [not_found]"), AdapterNotFound),
    (failure("the queue is full [unavailable]"), ServerUnavailable),
    (failure("it was cancelled [cancelled]"), RequestCancelled),
    (failure("failed [internal]"), ServerError),
    (failure("failed"), ServerError),
    ((grpc.StatusCode.INVALID_ARGUMENT, "alpha: no"), InvalidRequest),
    ((grpc.StatusCode.NOT_FOUND, "lora_name: no"), AdapterNotFound),
    ((grpc.StatusCode.UNAVAILABLE, "the queue is full"), ServerUnavailable),
    ((grpc.StatusCode.CANCELLED, "cancelled"), RequestCancelled),
    ((grpc.StatusCode.INTERNAL, "failed"), ServerError),
]


def test_stream(server: FakeServer) -> None:
    server.script = WHOLE
    with Client(server.url) as client, client.stream("hi") as pieces:
        assert [piece.text for piece in pieces] == ["a", "", "b"]
        result = pieces.result()
    assert (result.text, result.token_ids, result.finish_reason) == ("ab", (1, 2, 3), "stop")
    assert result.num_output_tokens == 3
    assert 0 < result.ttft_s <= result.latency_s
    assert "triton_grpc_error" not in server.metadata  # it can crash tritonserver
    assert not server.cancelled.is_set()


def test_generate(server: FakeServer) -> None:
    server.script = [piece("ab", 1, 2, final=True, num_input_tokens=("INT32", [7]))]
    with Client(server.url) as client:
        result = client.generate("hi")
    assert (result.text, result.num_input_tokens) == ("ab", 7)
    assert result.ttft_s == result.latency_s
    names = [tensor.name for tensor in server.requests[0].inputs]
    raw = server.requests[0].raw_input_contents[names.index("stream")]
    assert unpack("BOOL", raw) == [False]


@pytest.mark.parametrize(("error", "kind"), CODES)
def test_errors(server: FakeServer, error: Any, kind: type[ColdClientError]) -> None:
    server.script = [error]
    with Client(server.url) as client, pytest.raises(kind) as caught:
        client.generate("hi")
    assert type(caught.value) is kind


def test_an_error_after_some_pieces(server: FakeServer) -> None:
    server.script = [piece("a", 1), failure("failed [internal]")]
    with Client(server.url) as client, client.stream("hi") as pieces:
        assert next(pieces).text == "a"
        with pytest.raises(ServerError):
            next(pieces)
        assert pieces.result().text == "a"


@pytest.mark.parametrize("script", [[], [piece("a", 1)], [reply(final=True)]])
def test_a_stream_without_its_end(server: FakeServer, script: list[Any]) -> None:
    server.script = script
    with Client(server.url) as client, pytest.raises(ProtocolError, match="cut off"):
        client.generate("hi")


def test_time_is_limited(server: FakeServer) -> None:
    server.script = [piece("a", 1), HANG]
    with Client(server.url, timeout_s=0.2) as client, pytest.raises(RequestTimeout):
        client.generate("hi")
    assert server.cancelled.wait(5)


def test_closing_a_stream_cancels(server: FakeServer) -> None:
    server.script = [piece("a", 1), HANG]
    with Client(server.url) as client:
        pieces = client.stream("hi")
        next(pieces)
        pieces.close()
        assert server.cancelled.wait(5)
        assert list(pieces) == []


def test_closing_the_client_cancels(server: FakeServer) -> None:
    server.script = [piece("a", 1), HANG]
    client = Client(server.url)
    pieces = client.stream("hi")
    next(pieces)
    client.close()
    assert server.cancelled.wait(5)
    with pytest.raises(RequestCancelled):
        next(pieces)


def test_nobody_listens() -> None:
    with Client("grpc://127.0.0.1:1") as client:
        with pytest.raises(ServerUnavailable):
            client.generate("hi")
        with pytest.raises(ServerUnavailable):
            client.health()
        with pytest.raises(ServerUnavailable):
            client.models()


def test_health(server: FakeServer) -> None:
    server.models = []
    with Client(server.url) as client:
        assert client.health() == Health(live=True, ready=True, model_ready=False)


def test_models(server: FakeServer) -> None:
    server.parameters = {
        "adapters": '["equations"]',
        "default_adapter": "equations",
        "base_model": "SmolLM2",
        "max_context": "1024",
    }
    cold = Model(
        name="cold",
        version="1",
        state="READY",
        adapters=("equations",),
        default_adapter="equations",
        base_model="SmolLM2",
        max_context=1024,
    )
    with Client(server.url) as client:
        assert client.models() == [cold, Model(name="cold_step", version="1", state="READY")]


def test_models_without_configuration(server: FakeServer) -> None:
    plain = Model(name="cold", version="1", state="READY")
    with Client(server.url) as client:
        assert client.models()[0] == plain
        server.models = [("cold", "UNAVAILABLE")]
        assert client.models()[0].state == "UNAVAILABLE"
        server.models = [("cold", "READY")]
        server.parameters = {"adapters": "5"}
        with pytest.raises(ProtocolError):
            client.models()


async def test_async_stream(server: FakeServer) -> None:
    server.script = WHOLE
    async with AsyncClient(server.url) as client, client.stream("hi") as pieces:
        assert [piece.text async for piece in pieces] == ["a", "", "b"]
        assert pieces.result().text == "ab"
    assert not server.cancelled.is_set()


async def test_async_generate_health_models(server: FakeServer) -> None:
    server.script = WHOLE
    server.parameters = {"max_context": "9"}
    async with AsyncClient(server.url) as client:
        assert (await client.generate("hi")).text == "ab"
        assert (await client.health()).model_ready
        assert [model.max_context for model in await client.models()] == [9, None]
        server.models = []
        assert await client.models() == []


@pytest.mark.parametrize(("error", "kind"), CODES)
async def test_async_errors(server: FakeServer, error: Any, kind: type[ColdClientError]) -> None:
    server.script = [error]
    async with AsyncClient(server.url) as client:
        with pytest.raises(kind):
            await client.generate("hi")


async def test_async_unavailable_timeout_and_cut(server: FakeServer) -> None:
    async with AsyncClient("grpc://127.0.0.1:1") as client:
        with pytest.raises(ServerUnavailable):
            await client.health()
    server.script = [piece("a", 1)]
    async with AsyncClient(server.url) as client:
        with pytest.raises(ProtocolError):
            await client.generate("hi")
        server.script = [HANG]
        with pytest.raises(RequestTimeout):
            await client.generate("hi", timeout_s=0.2)


async def test_leaving_an_async_stream_cancels(server: FakeServer) -> None:
    server.script = [piece("a", 1), HANG]
    async with AsyncClient(server.url) as client:
        async with client.stream("hi") as pieces:
            assert await anext(pieces) == Piece(text="a", token_ids=(1,))
        assert await asyncio.to_thread(server.cancelled.wait, 5)


async def test_cancelling_the_task_cancels(server: FakeServer) -> None:
    server.script = [piece("a", 1), HANG]
    async with AsyncClient(server.url) as client:
        pieces = client.stream("hi")
        await anext(pieces)
        task = asyncio.create_task(anext(pieces))
        await asyncio.sleep(0)  # lets the task start
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.cancelled.wait, 5)
