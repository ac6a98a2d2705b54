from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from cold_client import (
    AdapterNotFound,
    AsyncClient,
    AsyncHttpTransport,
    Client,
    ColdClientError,
    Health,
    HttpTransport,
    InvalidRequest,
    ProtocolError,
    Request,
    RequestTimeout,
    ServerError,
    ServerUnavailable,
)

Handler = Callable[[httpx.Request], httpx.Response]
URL = "http://server"


class Chunks(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes in the given chunks; an exception among them is raised."""

    def __init__(self, *chunks: bytes | Exception) -> None:
        self._chunks = chunks
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


def event(**outputs: Any) -> bytes:
    return f"data: {json.dumps(outputs, ensure_ascii=False)}\n\n".encode()


FIRST = event(text_output="a\u2028", token_ids=1)
LAST = event(text_output="é", token_ids=[2, 3], finish_reason="stop")


def sync(handler: Handler, **settings: Any) -> Client:
    transport = HttpTransport(URL, transport=httpx.MockTransport(handler))
    return Client(URL, transport=transport, **settings)


def asynchronous(handler: Handler) -> AsyncClient:
    transport = AsyncHttpTransport(URL, transport=httpx.MockTransport(handler))
    return AsyncClient(URL, transport=transport)


def body(*chunks: bytes | Exception, status: int = 200) -> Handler:
    return lambda _: httpx.Response(status, stream=Chunks(*chunks))


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_stream(size: int) -> None:
    whole = FIRST + LAST
    chunks = [whole[start : start + size] for start in range(0, len(whole), size)]
    with sync(body(*chunks)) as client, client.stream("hi") as pieces:
        texts = [piece.text for piece in pieces]
        result = pieces.result()
    assert texts == ["a\u2028", "é"]
    assert (result.token_ids, result.finish_reason) == ((1, 2, 3), "stop")
    async with asynchronous(body(*chunks)) as client2, client2.stream("hi") as pieces2:
        assert [piece.text async for piece in pieces2] == texts


async def test_generate() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"text_output": "ab", "token_ids": [1, 2]})

    with sync(handler) as client:
        assert client.generate("hi").text == "ab"
    async with asynchronous(handler) as client2:
        assert (await client2.generate("hi")).token_ids == (1, 2)
    assert [request.url.path for request in seen] == ["/v2/models/cold/generate"] * 2
    assert json.loads(seen[0].content)["stream"] is False
    assert seen[0].headers["content-type"] == "application/json"


STATUSES: list[tuple[int, str, type[ColdClientError]]] = [
    (400, "alpha: no", InvalidRequest),
    (404, "lora_name: no", AdapterNotFound),
    (404, "Request for unknown model: 'cold' is not found", ServerUnavailable),
    (503, "the queue is full", ServerUnavailable),
    (500, "failed", ServerError),
]


@pytest.mark.parametrize(("status", "message", "kind"), STATUSES)
async def test_statuses(status: int, message: str, kind: type[ColdClientError]) -> None:
    plain = json.dumps({"error": message}).encode()
    with sync(body(plain, status=status)) as client, pytest.raises(kind, match=message):
        client.generate("hi")
    # generate_stream sends the body as an event
    sse = body(b"data: ", plain, b"\n\n", status=status)
    with sync(sse) as client, pytest.raises(kind, match=message):
        next(client.stream("hi"))
    async with asynchronous(sse) as client2:
        with pytest.raises(kind, match=message):
            await anext(client2.stream("hi"))


def test_an_error_in_a_good_answer() -> None:
    with sync(body(b'{"error":"failed"}')) as client, pytest.raises(ServerError, match="failed"):
        client.generate("hi")


def test_an_error_in_the_middle_of_a_stream() -> None:
    with sync(body(FIRST, event(error="failed"))) as client, client.stream("hi") as pieces:
        assert next(pieces).token_ids == (1,)
        with pytest.raises(ServerError, match="failed"):
            next(pieces)


@pytest.mark.parametrize(
    "chunks", [[], [FIRST], [FIRST, LAST[:-5]], [FIRST, httpx.RemoteProtocolError("cut")]]
)
async def test_a_stream_without_its_end(chunks: list[bytes | Exception]) -> None:
    with sync(body(*chunks)) as client, pytest.raises(ProtocolError, match="cut"):
        list(client.stream("hi"))
    async with asynchronous(body(*chunks)) as client2:
        with pytest.raises(ProtocolError, match="cut"):
            _ = [piece async for piece in client2.stream("hi")]


def test_without_a_finish_reason_a_clean_close_is_the_end() -> None:
    request = Request(text_input="hi", return_finish_reason=False)
    with sync(body(FIRST)) as client:
        assert len(list(client.stream(request))) == 1
    with sync(body(FIRST, b"data: {")) as client, pytest.raises(ProtocolError):
        list(client.stream(request))


def test_closing_a_stream_closes_the_connection() -> None:
    chunks = Chunks(FIRST, LAST)
    with sync(lambda _: httpx.Response(200, stream=chunks)) as client:
        pieces = client.stream("hi")
        next(pieces)
        assert not chunks.closed
        pieces.close()
        assert chunks.closed


def test_a_stream_that_trickles_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("cold_client._http.time.monotonic", lambda: now[0])
    with sync(body(FIRST, LAST), timeout_s=5.0) as client, client.stream("hi") as pieces:
        next(pieces)
        now[0] = 5.1
        with pytest.raises(RequestTimeout):
            next(pieces)


@pytest.mark.parametrize(
    ("raised", "kind"),
    [(httpx.ReadTimeout("late"), RequestTimeout), (httpx.ConnectError("no"), ServerUnavailable)],
)
async def test_what_httpx_raises(raised: Exception, kind: type[ColdClientError]) -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise raised

    with sync(handler) as client:
        for call in (client.health, client.models, lambda: client.generate("hi")):
            with pytest.raises(kind):
                call()
    async with asynchronous(handler) as client2:
        for awaitable in (client2.health(), client2.models(), client2.generate("hi")):
            with pytest.raises(kind):
                await awaitable


PATHS: dict[str, Any] = {
    "/v2/health/live": {},
    "/v2/health/ready": {},
    "/v2/repository/index": [{"name": "cold", "version": "1", "state": "READY"}, {"name": "b"}],
    "/v2/models/cold/config": {
        "parameters": {
            "adapters": {"string_value": '["x", "y"]'},
            "max_context": {"string_value": "9"},
        }
    },
}


def answers(**changed: Any) -> Handler:
    paths = {**PATHS, **changed}

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path not in paths:
            return httpx.Response(400, json={"error": "no"})
        return httpx.Response(200, json=paths[request.url.path])

    return handler


async def test_health_and_models() -> None:
    health = Health(live=True, ready=True, model_ready=False)
    with sync(answers()) as client:
        assert client.health() == health
        cold, other = client.models()
    assert (cold.adapters, cold.default_adapter, cold.max_context) == (("x", "y"), None, 9)
    assert (other.name, other.state) == ("b", "")
    async with asynchronous(answers()) as client2:
        assert await client2.health() == health
        assert await client2.models() == [cold, other]
    async with asynchronous(answers(**{"/v2/repository/index": []})) as client2:
        assert await client2.models() == []


@pytest.mark.parametrize(
    "changed",
    [
        {"/v2/repository/index": 5},
        {"/v2/repository/index": [5]},
        {"/v2/repository/index": [{}]},
        {"/v2/models/cold/config": []},
        {"/v2/models/cold/config": {"parameters": {"adapters": 5}}},
        {"/v2/models/cold/config": {"parameters": {"max_context": {"string_value": "x"}}}},
    ],
)
def test_malformed_answers(changed: dict[str, Any]) -> None:
    with sync(answers(**changed)) as client, pytest.raises(ProtocolError):
        client.models()


def test_an_answer_that_is_not_json() -> None:
    with sync(body(b"<html>")) as client, pytest.raises(ProtocolError):
        client.models()


def test_a_refused_index() -> None:
    with sync(body(b"{}", status=503)) as client, pytest.raises(ServerUnavailable):
        client.models()
