"""OpenAI's own client against the gateway over the real server."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from cold_client import Client, Request, Result
from tests.conftest import Server, free_ports
from tests.server.test_lifecycle import answers_quickly, occupy

# One execution is enough: what lies between the gateway and the server is the same for both.
pytestmark = [
    pytest.mark.server,
    pytest.mark.parametrize("server", ["fused"], indirect=True, scope="session"),
]

BASE, ADAPTER = "SmolLM2-135M-Instruct", "equations"
PROMPT = "The sky is"
QUESTION = (
    "Write this problem as an equation in prefix notation.\n"
    "There are number0 apples and number1 pears . How many fruits are there ?"
)
MESSAGES: Any = [{"role": "user", "content": QUESTION}]
LONG: dict[str, Any] = {
    "model": BASE,
    "prompt": "Once upon a time",
    "max_tokens": 600,
    "extra_body": {"ignore_eos": True},
}


@contextlib.contextmanager
def running(server: str, *options: str) -> Iterator[str]:
    """The command `cold-openai`; gives the URL of the gateway."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "cold_client.gateway.cli", "--server", server]
    process = subprocess.Popen([*command, "--port", str(port), *options])
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_it_listens(url, process)
        yield f"{url}/v1"
        process.terminate()
        assert process.wait(40) == 0
    finally:
        process.kill()
        process.wait()


def wait_until_it_listens(url: str, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up and process.poll() is None:
        with contextlib.suppress(httpx.ConnectError):
            httpx.get(f"{url}/health", timeout=10)
            return
        time.sleep(0.1)
    pytest.fail("the gateway did not start")


@pytest.fixture(scope="module")
def gateway(server: Server) -> Iterator[str]:
    with running(server.grpc) as url:
        yield url


@pytest.fixture
def api(gateway: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=gateway, api_key="unused", max_retries=0) as api:
        yield api


def direct(server: Server, **inputs: Any) -> Result:
    """The same request without the gateway."""
    with Client(server.grpc) as client:
        return client.generate(Request(**inputs))


def used(usage: Any) -> tuple[int, int]:
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    return usage.prompt_tokens, usage.completion_tokens


def tokens(choice: Any) -> list[int]:
    return [int(token.token.removeprefix("token_id:")) for token in choice.logprobs.content]


def test_chat(api: OpenAI, server: Server) -> None:
    expected = direct(server, messages=MESSAGES, lora_name=ADAPTER)
    answer = api.chat.completions.create(model=ADAPTER, messages=MESSAGES)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == expected.text == "+ number0 number1"
    assert choice.finish_reason == expected.finish_reason == "stop"
    assert answer.usage is not None
    assert used(answer.usage) == (expected.num_input_tokens, expected.num_output_tokens)
    assert (answer.object, answer.model) == ("chat.completion", ADAPTER)
    assert answer.id.startswith("chatcmpl-")
    assert abs(answer.created - time.time()) < 600


def test_an_answer_can_be_sent_back(api: OpenAI) -> None:
    first = api.chat.completions.create(model=BASE, messages=MESSAGES, max_tokens=4)
    more: Any = [first.choices[0].message, {"role": "user", "content": "Go on."}]
    second = api.chat.completions.create(model=BASE, messages=[*MESSAGES, *more], max_tokens=4)
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens > first.usage.total_tokens
    assert second.usage.prompt_tokens_details is not None
    assert (second.usage.prompt_tokens_details.cached_tokens or 0) >= 16


def test_chat_in_pieces(api: OpenAI, server: Server) -> None:
    expected = direct(server, messages=MESSAGES, lora_name=ADAPTER)
    options: Any = {"include_usage": True}
    with api.chat.completions.create(
        model=ADAPTER, messages=MESSAGES, stream=True, stream_options=options
    ) as stream:
        *chunks, last = stream
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(texts) == expected.text
    assert len([text for text in texts if text]) > 3
    assert [c.choices[0].finish_reason for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert last.choices == []
    assert used(last.usage) == (expected.num_input_tokens, expected.num_output_tokens)
    assert all(chunk.usage is None for chunk in chunks)


def test_completions(api: OpenAI, server: Server) -> None:
    expected = direct(server, text_input=PROMPT, lora_name=ADAPTER, max_tokens=6)
    answer = api.completions.create(model=ADAPTER, prompt=PROMPT, max_tokens=6)
    assert answer.choices[0].text == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason == "length"
    assert answer.usage is not None
    assert used(answer.usage) == (expected.num_input_tokens, 6)
    assert (answer.object, answer.id[:5]) == ("text_completion", "cmpl-")
    with api.completions.create(model=ADAPTER, prompt=PROMPT, max_tokens=6, stream=True) as stream:
        choices = [chunk.choices[0] for chunk in stream]
    assert "".join(choice.text for choice in choices) == expected.text
    assert choices[-1].finish_reason == "length"


def test_prompts_of_all_kinds(api: OpenAI, server: Server) -> None:
    ids = [504, 6632, 314]
    expected = [
        direct(server, text_input=PROMPT, max_tokens=4),
        direct(server, text_input="Once", max_tokens=4),
        direct(server, input_ids=ids, max_tokens=4),
    ]
    many = api.completions.create(model=ADAPTER, prompt=[PROMPT, "Once"], max_tokens=4)
    assert [choice.text for choice in many.choices] == [result.text for result in expected[:2]]
    assert [choice.index for choice in many.choices] == [0, 1]
    assert many.usage is not None
    assert used(many.usage) == (sum(r.num_input_tokens or 0 for r in expected[:2]), 8)
    one = api.completions.create(model=ADAPTER, prompt=ids, max_tokens=4)
    assert one.choices[0].text == expected[2].text
    echo = api.completions.create(model=ADAPTER, prompt=PROMPT, max_tokens=4, echo=True)
    assert echo.choices[0].text == PROMPT + expected[0].text


def test_models(api: OpenAI) -> None:
    assert [model.id for model in api.models.list()] == [BASE, ADAPTER, "flipped"]
    model = api.models.retrieve(ADAPTER)
    assert (model.id, model.object) == (ADAPTER, "model")
    assert (model.model_extra or {})["parent"] == BASE


def test_the_base_model_answers_without_an_adapter(api: OpenAI, server: Server) -> None:
    base = api.chat.completions.create(model=BASE, messages=MESSAGES, max_tokens=8)
    expected = direct(server, messages=MESSAGES, decoding="base", max_tokens=8)
    assert base.choices[0].message.content == expected.text != "+ number0 number1"


@pytest.mark.parametrize(
    "extra",
    [{"alpha": 0.05, "beta": 2.0}, {"alpha": 0.3, "beta": 1.0}, {"decoding": "greedy"}],
    ids=str,
)
def test_extra_fields_give_the_tokens_of_the_client(
    extra: dict[str, Any], api: OpenAI, server: Server
) -> None:
    messages: Any = [{"role": "user", "content": "Tell me about the sky."}]
    more: Any = extra | {"return_contrast": True}
    answer = api.chat.completions.create(
        model=ADAPTER, messages=messages, max_tokens=12, logprobs=True, extra_body=more
    )
    expected = direct(
        server,
        messages=messages,
        lora_name=ADAPTER,
        max_tokens=12,
        return_log_probs=True,
        return_contrast=True,
        **extra,
    )
    (choice,) = answer.choices
    assert tokens(choice) == list(expected.token_ids)
    assert choice.logprobs is not None
    values = [token.logprob for token in choice.logprobs.content or ()]
    assert values == pytest.approx(expected.log_probs, abs=1e-4)
    contrast = (choice.model_extra or {})["contrast"]
    assert [token["token_id"] for token in contrast] == list(expected.token_ids)
    assert [token["changed"] for token in contrast] == [t.changed for t in expected.contrast]


def test_contrast_with_another_prompt(api: OpenAI, server: Server) -> None:
    fields: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 12}
    guided: dict[str, Any] = {"negative_prompt": "Rain is", "guidance_scale": 2.5}
    of_base = api.completions.create(model=BASE, **fields, extra_body=guided).choices[0].text
    expected = direct(
        server,
        text_input=PROMPT,
        lora_scale=0.0,
        amateur_text_input="Rain is",
        amateur_lora_name="",
        beta=1.5,
        max_tokens=12,
    )
    assert of_base == expected.text
    last: Any = {"amateur": {"last_tokens": 3}, "alpha": 0.05, "beta": 2.0}
    text = api.completions.create(model=ADAPTER, **fields, extra_body=last).choices[0].text
    more: dict[str, Any] = {"lora_name": ADAPTER, "alpha": 0.05, "beta": 2.0, "max_tokens": 12}
    assert text == direct(server, text_input=PROMPT, amateur_last_tokens=3, **more).text
    assert text != direct(server, text_input=PROMPT, **more).text
    with pytest.raises(openai.BadRequestError) as caught:
        api.completions.create(model=ADAPTER, **fields, extra_body={"amateur": {"last_tokens": 0}})
    assert caught.value.param == "amateur"


def test_other_adapters(api: OpenAI, server: Server) -> None:
    """As amateurs, of the base too, and several at once."""
    fields: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 12}

    def answer(model: str, **body: Any) -> str:
        return api.completions.create(model=model, **fields, extra_body=body).choices[0].text

    def right(**inputs: Any) -> str:
        return direct(server, text_input=PROMPT, max_tokens=12, **inputs).text

    away: dict[str, Any] = {"amateur": {"model": "flipped"}, "beta": 2.0}
    inputs: dict[str, Any] = {"amateur_lora_name": "flipped", "beta": 2.0}
    assert answer(ADAPTER, **away) == right(lora_name=ADAPTER, **inputs)
    assert answer(BASE, **away) == right(lora_scale=0.0, **inputs)
    own: dict[str, Any] = {"amateur": {"model": ADAPTER}, "beta": 2.0}
    assert answer(BASE, **own) == right(
        lora_scale=0.0, amateur_lora_name=ADAPTER, amateur_lora_scale=1.0, beta=2.0
    )
    mixed: dict[str, Any] = {"lora_names": [ADAPTER, "flipped"], "lora_scales": [0.5, 1]}
    assert answer(BASE, **mixed) == right(**mixed)
    with pytest.raises(openai.BadRequestError) as caught:
        answer(ADAPTER, **mixed)
    assert caught.value.param == "lora_names"
    for body, param in (
        ({"lora_names": [ADAPTER, "nobody"]}, "lora_names"),
        ({"amateur": {"model": "nobody"}}, "amateur"),
    ):
        with pytest.raises(openai.NotFoundError) as missing:
            answer(BASE, **body)
        assert (missing.value.param, missing.value.code) == (param, "model_not_found")


def test_alpha_and_beta_change_the_answer(api: OpenAI) -> None:
    texts = {
        api.completions.create(
            model=ADAPTER, prompt=PROMPT, max_tokens=12, extra_body={"alpha": alpha, "beta": beta}
        )
        .choices[0]
        .text
        for alpha, beta in ((1.0, 0.0), (0.05, 2.0), (0.3, 1.0))
    }
    assert len(texts) == 3


def test_sampling_stops_and_penalties_are_passed_on(api: OpenAI, server: Server) -> None:
    fields: dict[str, Any] = {
        "max_tokens": 24,
        "temperature": 0.9,
        "top_p": 0.95,
        "seed": 2**63 + 5,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
    }
    free = direct(server, text_input=PROMPT, lora_name=ADAPTER, **fields)
    assert (
        api.completions.create(model=ADAPTER, prompt=PROMPT, **fields).choices[0].text == free.text
    )
    word = free.text[8:12]
    stopped = api.completions.create(model=ADAPTER, prompt=PROMPT, stop=[word, "\x00"], **fields)
    assert stopped.choices[0].text == free.text[: free.text.index(word)]
    assert stopped.choices[0].finish_reason == "stop"


def test_alternatives(api: OpenAI, server: Server) -> None:
    messages: Any = [{"role": "user", "content": "Tell me about the sky."}]
    fields: dict[str, Any] = {"max_tokens": 5, "temperature": 1.5, "seed": 4}
    asked = {"lora_name": ADAPTER, "top_logprobs": 3, "return_log_probs": True, **fields}
    expected = direct(server, messages=messages, **asked)
    (chat,) = api.chat.completions.create(
        model=ADAPTER, messages=messages, logprobs=True, top_logprobs=3, **fields
    ).choices
    told = [one.top_logprobs for one in (chat.logprobs and chat.logprobs.content) or ()]
    best = [
        [(f"token_id:{one.token_id}", one.log_prob) for one in of] for of in expected.alternatives
    ]
    assert [[one.token for one in of] for of in told] == [[name for name, _ in of] for of in best]
    assert [[one.logprob for one in of] for of in told] == [
        pytest.approx([value for _, value in of], abs=1e-4) for of in best
    ]

    expected = direct(server, text_input=PROMPT, **asked)
    (completion,) = api.completions.create(
        model=ADAPTER, prompt=PROMPT, logprobs=3, **fields
    ).choices
    assert completion.logprobs is not None
    for id, of, listed in zip(
        expected.token_ids,
        expected.alternatives,
        completion.logprobs.top_logprobs or (),
        strict=True,
    ):
        # The chosen token is listed too, as OpenAI does.
        assert listed.keys() == {f"token_id:{one}" for one in (id, *(o.token_id for o in of))}


def test_log_probabilities_of_completions(api: OpenAI, server: Server) -> None:
    expected = direct(
        server, text_input=PROMPT, decoding="base", max_tokens=5, return_log_probs=True
    )
    with api.completions.create(
        model=BASE, prompt=PROMPT, max_tokens=5, logprobs=0, stream=True
    ) as stream:
        parts = [chunk.choices[0].logprobs for chunk in stream]
    names = [name for part in parts if part for name in part.tokens or ()]
    values = [value for part in parts if part for value in part.token_logprobs or ()]
    assert names == [f"token_id:{token}" for token in expected.token_ids]
    assert values == pytest.approx(expected.log_probs, abs=1e-4)


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("n", {"n": 2}),
        ("temperature", {"temperature": -1}),
        ("top_p", {"top_p": 0}),
        ("stop", {"stop": [""]}),
        ("max_tokens", {"max_tokens": 10**5}),
        ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("logit_bias", {"logit_bias": {"5": 101}}),
        ("alpha", {"extra_body": {"alpha": 7}}),
        ("alhpa", {"extra_body": {"alhpa": 0.1}}),
        ("messages", {"messages": [{"role": "user", "content": "word " * 1000}]}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests_name_the_field(
    param: str, fields: dict[str, Any], stream: bool, api: OpenAI
) -> None:
    body: dict[str, Any] = {"model": ADAPTER, "messages": MESSAGES, "stream": stream}
    with pytest.raises(openai.BadRequestError) as caught:
        api.chat.completions.create(**body | fields)
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")
    assert "Traceback" not in caught.value.message


def test_an_unknown_model(api: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=f"served are: {BASE}, {ADAPTER}") as caught:
        api.completions.create(model="other", prompt=PROMPT)
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.NotFoundError):
        api.models.retrieve("other")


def test_no_server(server: Server) -> None:
    (nobody,) = free_ports(1)
    with (
        running(f"grpc://127.0.0.1:{nobody}") as url,
        OpenAI(base_url=url, api_key="unused", max_retries=0) as api,
    ):
        with pytest.raises(openai.InternalServerError) as caught:
            api.completions.create(model=ADAPTER, prompt=PROMPT)
        assert caught.value.status_code == 503
        assert int(caught.value.response.headers["Retry-After"]) > 0
        health = httpx.get(url.replace("/v1", "/health"), timeout=10)
        assert health.status_code == 503
        assert health.json()["error"]["code"] == "unavailable"


def test_an_answer_that_takes_too_long(server: Server) -> None:
    with (
        running(server.grpc, "--timeout-s", "1") as url,
        OpenAI(base_url=url, api_key="unused", max_retries=0) as api,
    ):
        with pytest.raises(openai.InternalServerError) as caught:
            api.completions.create(**LONG)
        assert (caught.value.status_code, caught.value.code) == (504, "deadline_exceeded")
        with api.completions.create(stream=True, **LONG) as stream:
            assert next(stream).choices[0].text
            with pytest.raises(openai.APIError) as broken:
                for _ in stream:
                    pass
        assert broken.value.code == "deadline_exceeded"


def test_health(gateway: str, server: Server) -> None:
    answer = httpx.get(gateway.replace("/v1", "/health"), timeout=10)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def leave_a_stream(api: OpenAI) -> None:
    with api.completions.create(stream=True, **LONG) as stream:
        next(stream)


def leave_before_the_answer(api: OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        api.completions.create(timeout=1, **LONG)


@pytest.mark.parametrize("leave", [leave_a_stream, leave_before_the_answer])
def test_a_client_that_goes_away_frees_its_slot(
    leave: Callable[[OpenAI], None], api: OpenAI, server: Server
) -> None:
    with occupy(server.grpc):
        leave(api)
        answers_quickly(server.grpc)


async def test_streams_at_once_do_not_mix(gateway: str, server: Server) -> None:
    sampled: dict[str, Any] = {"max_tokens": 10, "temperature": 1.0}
    seeds = range(12)

    async with AsyncOpenAI(base_url=gateway, api_key="unused", max_retries=0) as api:

        async def stream(seed: int) -> str:
            chunks = await api.completions.create(
                model=ADAPTER, prompt=PROMPT, seed=seed, stream=True, **sampled
            )
            return "".join([chunk.choices[0].text async for chunk in chunks])

        async def whole(seed: int) -> str:
            answer = await api.completions.create(
                model=ADAPTER, prompt=PROMPT, seed=seed, **sampled
            )
            return answer.choices[0].text

        texts = await asyncio.gather(*map(stream, seeds), *map(whole, seeds[:4]))

    expected = [direct(server, text_input=PROMPT, seed=seed, **sampled).text for seed in seeds]
    assert texts == expected + expected[:4]
    assert len(set(expected)) > 6
