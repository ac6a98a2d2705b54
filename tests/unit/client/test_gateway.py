"""The gateway's routes over a scripted server: errors, streams and what ends them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from cold_client import AsyncClient
from cold_client.gateway import create_app
from cold_client.gateway.cli import main

from .fake_grpc import HANG, FakeServer, failure, piece

CHAT: dict[str, Any] = {"model": "math", "messages": [{"role": "user", "content": "hi"}]}
STOP = ("BYTES", ["stop"])
PROMPT_TOKENS = ("INT32", [7])
# What the server says, and the status, the parameter and the code that come of it.
ERRORS: list[tuple[str, int, str | None, str | None]] = [
    ("stop_words: no [invalid_argument]", 400, "stop", None),
    ("text_input: no [invalid_argument]", 400, "prompt", None),
    ("alpha: no [invalid_argument]", 400, "alpha", None),
    ("lora_name: no adapter 'x' [not_found]", 404, "model", "model_not_found"),
    ("the queue is full; try again in about 2.5 s [unavailable]", 503, None, "unavailable"),
    ("the server is shutting down [unavailable]", 503, None, "unavailable"),
    ("it was cancelled [cancelled]", 500, None, "internal"),
    ("failed [internal]", 500, None, "internal"),
]


@pytest.fixture
async def http(server: FakeServer) -> AsyncIterator[httpx.AsyncClient]:
    server.parameters = {"adapters": '["math"]', "base_model": "tiny", "max_context": "64"}
    async with AsyncClient(server.url, timeout_s=0.5) as client:
        transport = httpx.ASGITransport(create_app(client), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            yield http


async def test_a_folder_of_adapters_is_the_servers_to_know(
    http: httpx.AsyncClient, server: FakeServer
) -> None:
    body = CHAT | {"model": "new"}
    assert (await http.post("/v1/chat/completions", json=body)).status_code == 404
    server.parameters["adapters_dir"] = "true"
    server.script = [piece("hi", final=True, finish_reason=STOP, num_input_tokens=PROMPT_TOKENS)]
    answer = await http.post("/v1/chat/completions", json=body)
    assert answer.json()["model"] == "new", answer.text
    for name in ("a%2Fb", "..%2Ff", "%0a", "x" * 65):
        assert (await http.get(f"/v1/models/{name}")).status_code == 404


def events(text: str) -> list[Any]:
    bodies = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [body if body == "[DONE]" else json.loads(body) for body in bodies]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("said", "status", "param", "code"), ERRORS)
async def test_a_refusal_has_its_status(
    said: str,
    status: int,
    param: str | None,
    code: str | None,
    stream: bool,
    http: httpx.AsyncClient,
    server: FakeServer,
) -> None:
    server.script = [failure(said)]
    answer = await http.post("/v1/chat/completions", json=CHAT | {"stream": stream})
    error = answer.json()["error"]
    assert answer.status_code == status
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    assert "[" not in error["message"]
    assert "lora_name" not in error["message"]
    assert answer.headers.get("Retry-After") == (
        None if status != 503 else "3" if "2.5" in said else "5"
    )


async def test_an_error_in_a_stream_ends_it(http: httpx.AsyncClient, server: FakeServer) -> None:
    server.script = [piece("a", 1), failure("failed [internal]")]
    answer = await http.post("/v1/chat/completions", json=CHAT | {"stream": True})
    *chunks, last = events(answer.text)
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == ["", "a"]
    assert last == {
        "error": {"message": "failed", "type": "server_error", "param": None, "code": "internal"}
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("rest", "status", "code"), [([HANG], 504, "deadline_exceeded"), ([], 502, "bad_gateway")]
)
async def test_answers_that_do_not_end(
    rest: list[Any],
    status: int,
    code: str,
    stream: bool,
    http: httpx.AsyncClient,
    server: FakeServer,
) -> None:
    server.script = [piece("a", 1), *rest]
    answer = await http.post("/v1/chat/completions", json=CHAT | {"stream": stream})
    assert answer.status_code == (200 if stream else status)
    body = events(answer.text)[-1] if stream else answer.json()
    assert body["error"]["code"] == code


async def test_an_answer_that_the_server_cancelled_is_an_error(
    http: httpx.AsyncClient, server: FakeServer
) -> None:
    server.script = [piece("a", 1, final=True, finish_reason=("BYTES", ["cancelled"]))]
    answer = await http.post("/v1/chat/completions", json=CHAT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    answer = await http.post("/v1/chat/completions", json=CHAT | {"stream": True})
    assert events(answer.text)[-1]["error"]["code"] == "internal"


@pytest.mark.parametrize("include_usage", [False, True])
async def test_a_whole_stream(
    include_usage: bool, http: httpx.AsyncClient, server: FakeServer
) -> None:
    server.script = [
        piece("a", 1, num_input_tokens=PROMPT_TOKENS),
        piece(
            *("b", 2, 3),
            final=True,
            finish_reason=STOP,
            num_input_tokens=PROMPT_TOKENS,
            num_cached_tokens=("INT32", [5]),
        ),
    ]
    options = {"stream": True, "stream_options": {"include_usage": include_usage}}
    answer = await http.post("/v1/chat/completions", json=CHAT | options)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    *chunks, done = events(answer.text)
    assert done == "[DONE]"
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    if include_usage:
        assert chunks.pop()["usage"] == {
            "prompt_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 5},
            "completion_tokens": 3,
            "total_tokens": 10,
        }
    assert all(("usage" in chunk) is include_usage for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[1:] == [{"content": "a"}, {"content": "b"}, {}]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None, None, None, "stop"]


async def test_a_log_probability_that_is_none(http: httpx.AsyncClient, server: FakeServer) -> None:
    nan = ("FP32", [float("nan")])
    server.script = [piece("a", 1, final=True, finish_reason=STOP, output_log_probs=nan)]
    answer = await http.post("/v1/chat/completions", json=CHAT | {"logprobs": True})
    (token,) = answer.json()["choices"][0]["logprobs"]["content"]
    assert (token["token"], token["logprob"]) == ("token_id:1", None)


async def test_models_and_health_follow_the_server(
    http: httpx.AsyncClient, server: FakeServer
) -> None:
    assert (await http.get("/health")).json() == {"status": "ok"}
    models = (await http.get("/v1/models")).json()["data"]
    assert [(m["id"], m["parent"], m["max_model_len"]) for m in models] == [
        ("tiny", None, 64),
        ("math", "tiny", 64),
    ]
    server.parameters["adapters"] = '["math", "team/law"]'
    assert (await http.get("/v1/models/team/law")).json()["parent"] == "tiny"
    server.models = [("cold", "UNAVAILABLE")]
    for path in ("/health", "/v1/models"):
        answer = await http.get(path)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/", 404), ("GET", "/v1/completions", 405)]
)
async def test_other_paths_and_methods(
    method: str, path: str, status: int, http: httpx.AsyncClient
) -> None:
    answer = await http.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": "\xff"}'])
async def test_a_body_that_is_no_object(body: bytes, http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("body: ")


async def test_a_body_that_is_too_large(http: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * (1 << 20)

    for content in (b" " * (17 << 20), pieces()):
        answer = await http.post("/v1/completions", content=content)
        assert answer.status_code == 413
        assert answer.json()["error"]["message"] == "body: at most 16777216 bytes"


async def test_a_bug_shows_no_traceback(
    http: httpx.AsyncClient, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(AsyncClient, "generate", fail)
    answer = await http.post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    assert "secret" not in answer.text


async def test_the_first_error_cancels_the_other_prompts(
    http: httpx.AsyncClient, server: FakeServer
) -> None:
    server.script = [failure("failed [internal]")]
    answer = await http.post("/v1/completions", json={"model": "math", "prompt": ["a", "b", "c"]})
    assert answer.status_code == 500


def test_a_bad_url_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--server", "ftp://h"]) == 2
    assert capsys.readouterr().err.startswith("cold-openai: --server: url: ")
