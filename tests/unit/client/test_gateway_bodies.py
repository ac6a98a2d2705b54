"""Bodies of OpenAI's API become the requests that they mean, or are refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage
from pydantic import ValidationError

from cold_client import InvalidRequest, Model, Request
from cold_client.gateway.answers import ChatAnswer
from cold_client.gateway.bodies import Body, ChatBody, CompletionBody
from cold_client.gateway.catalogue import served_by
from cold_client.gateway.errors import ApiError, from_client, from_validation

MODELS = served_by(Model(name="cold", adapters=("math", "law"), base_model="tiny"), 0)
BASE, MATH, _ = MODELS
CHAT: dict[str, Any] = {"model": "math", "messages": [{"role": "user", "content": "hi"}]}
PROMPT: dict[str, Any] = {"model": "math", "prompt": "hi"}

number = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 5)
words = st.lists(st.text(min_size=1), min_size=1, max_size=4)
json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | number | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
# By the name of the field here, and of the input there.
SAME = {
    "decoding": st.sampled_from(["cold", "greedy", "base", "beam", "cold_beam"]),
    "beam_width": st.integers(),
    "length_penalty": st.floats(allow_nan=False),
    "early_stopping": st.booleans() | st.sampled_from(["true", "false", "never"]),
    "alpha": number,
    "beta": number,
    "lora_scale": number,
    "temperature": number,
    "top_k": st.integers(),
    "top_p": number,
    "min_p": number,
    "repetition_penalty": number,
    "presence_penalty": number,
    "frequency_penalty": number,
    "seed": st.integers(0, 2**64 - 1),
    "max_tokens": st.integers(),
    "min_tokens": st.integers(),
    "bad_words": words,
    "ignore_eos": st.booleans(),
    "return_contrast": st.booleans(),
    "deadline_s": number,
    "priority": st.integers(),
}


def parse(body: dict[str, Any], kind: type[Body] = ChatBody) -> Body:
    return kind.model_validate_json(json.dumps(body))


def refusal(body: dict[str, Any], kind: type[Body] = ChatBody) -> ApiError:
    try:
        parse(body, kind).requests(MATH)
    except ValidationError as error:
        return from_validation(error)
    except InvalidRequest as error:
        return from_client(error)
    pytest.fail("it was not refused")


@given(st.fixed_dictionaries({}, optional={n: v | st.none() for n, v in SAME.items()}))
def test_inputs_of_the_same_name_are_passed_on(fields: dict[str, Any]) -> None:
    expected = replace(Request(lora_name="math", return_num_cached_tokens=True), **fields)
    (chat,) = parse(CHAT | fields).requests(MATH)
    assert chat == replace(expected, messages=CHAT["messages"])
    (completion,) = parse(PROMPT | fields, CompletionBody).requests(MATH)
    assert completion == replace(expected, text_input="hi")


@given(
    field=st.sampled_from(sorted({*ChatBody.model_fields, *CompletionBody.model_fields, "x"})),
    value=json_value,
)
def test_any_value_is_understood_or_refused_by_name(field: str, value: Any) -> None:
    for kind, body in ((ChatBody, CHAT), (CompletionBody, PROMPT)):
        try:
            requests = parse(body | {field: value}, kind).requests(MATH)
            assert all(isinstance(request, Request) for request in requests)
        except ValidationError as error:
            api_error = from_validation(error)
            assert (api_error.status, api_error.param) == (400, field)
            assert api_error.message.startswith((f"{field}: ", f"{field}."))
        except InvalidRequest as error:
            assert from_client(error).status == 400


@pytest.mark.parametrize(
    "change",
    [
        {"n": 2},
        {"n": True},
        {"logit_bias": {"five": 1}},
        {"logit_bias": {"-5": 1}},
        {"logit_bias": {"5": "1"}},
        {"logit_bias": [5]},
        {"tools": [{"type": "function"}]},
        {"tool_choice": "auto"},
        {"response_format": {"type": "json_object"}},
        {"top_logprobs": 3},
        {"logprobs": True, "top_logprobs": 21},
        {"logprobs": True, "top_logprobs": -1},
        {"logprobs": True, "top_logprobs": True},
        {"store": True},
        {"metadata": {}},
        {"temperature": "1"},
        {"max_tokens": 1.5},
        {"stop": [1]},
        {"seed": -1},
        {"messages": []},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        {"messages": [{"role": "user", "content": "x", "name": "y"}]},
        {"stream_options": {"include_usage": True}},
        {"stream": True, "stream_options": {"other": True}},
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused(change: dict[str, Any]) -> None:
    error = refusal(CHAT | change)
    assert (error.status, error.type) == (400, "invalid_request_error")
    assert error.param == list(change)[-1]
    assert error.message.startswith((f"{error.param}: ", f"{error.param}."))


@pytest.mark.parametrize(
    "change",
    [
        {"best_of": 2},
        {"suffix": "end"},
        {"logprobs": 21},
        {"logprobs": True},
        {"top_logprobs": 1},
        {"logprobs": 0, "echo": True},
        {"prompt": []},
        {"prompt": ["a", 1]},
        {"prompt": ["a"] * 33},
        {"prompt": ["a", "b"], "stream": True},
    ],
    ids=str,
)
def test_what_completions_refuse(change: dict[str, Any]) -> None:
    assert refusal(PROMPT | change, CompletionBody).param == next(iter(change))


@pytest.mark.parametrize(
    "change",
    [
        {"n": 1},
        {"n": None, "logit_bias": {}, "user": "me"},
        {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "store": False},
        {"top_logprobs": 0, "stop": []},
        {"parallel_tool_calls": False},
        {"parallel_tool_calls": True, "stream_options": None},
    ],
    ids=str,
)
def test_what_is_off_is_accepted(change: dict[str, Any]) -> None:
    (request,) = parse(CHAT | change).requests(MATH)
    expected = Request(lora_name="math", return_num_cached_tokens=True)
    assert request == replace(expected, messages=CHAT["messages"])


def test_messages() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [{"role": "developer", "content": "brief"}, {"role": "user", "content": parts}]
    (request,) = parse(CHAT | {"messages": messages}).requests(MATH)
    assert request.messages == [
        {"role": "system", "content": "brief"},
        {"role": "user", "content": "one\ntwo"},
    ]


def test_names_that_differ() -> None:
    (request,) = parse(CHAT | {"max_completion_tokens": 7, "stop": "a"}).requests(MATH)
    assert (request.max_tokens, request.stop_words) == (7, ["a"])
    error = refusal(CHAT | {"max_completion_tokens": 7, "max_tokens": 7})
    assert error.param == "max_tokens"
    (chat,) = parse(CHAT | {"logprobs": True}).requests(MATH)
    (completion,) = parse(PROMPT | {"logprobs": 0}, CompletionBody).requests(MATH)
    assert chat.return_log_probs is completion.return_log_probs is True
    assert chat.top_logprobs is completion.top_logprobs is None
    (chat,) = parse(CHAT | {"logprobs": True, "top_logprobs": 20}).requests(MATH)
    (completion,) = parse(PROMPT | {"logprobs": 5}, CompletionBody).requests(MATH)
    assert (chat.top_logprobs, completion.top_logprobs) == (20, 5)
    (echo,) = parse(PROMPT | {"echo": True}, CompletionBody).requests(MATH)
    assert echo.exclude_input_in_output is False


@given(
    st.lists(st.text() | st.lists(st.integers(), min_size=1), min_size=1, max_size=32)
    | st.text()
    | st.lists(st.integers(), min_size=1)
)
def test_prompts(prompt: Any) -> None:
    requests = parse(PROMPT | {"prompt": prompt}, CompletionBody).requests(MATH)
    one = isinstance(prompt, str) or isinstance(prompt[0], int)
    given_prompts = [prompt] if one else prompt
    assert [request.text_input or request.input_ids or "" for request in requests] == given_prompts


def test_the_base_model_is_decoded_alone() -> None:
    (request,) = parse(CHAT | {"model": "tiny"}).requests(BASE)
    assert (request.decoding, request.lora_name) == ("base", None)
    with pytest.raises(InvalidRequest, match="decoding: must be base"):
        parse(CHAT | {"model": "tiny", "decoding": "greedy"}).requests(BASE)


def test_an_adapter_hides_a_base_model_of_its_name() -> None:
    served = served_by(Model(name="cold", adapters=("tiny",), base_model="tiny"), 0)
    assert [(model.id, model.adapter) for model in served] == [("tiny", "tiny")]
    assert [model.id for model in served_by(Model(name="cold"), 0)] == ["base"]


# Fields of OpenAI's API, whether this one has them or not.
OF_CHATS = [
    "audio",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "metadata",
    "modalities",
    "n",
    "parallel_tool_calls",
    "prediction",
    "prompt_cache_key",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "service_tier",
    "store",
    "tool_choice",
    "tools",
    "top_logprobs",
    "verbosity",
    "web_search_options",
]
OF_COMPLETIONS = ["best_of", "echo", "logit_bias", "logprobs", "n", "suffix"]


@pytest.mark.parametrize(
    ("kind", "body", "names"),
    [
        (ChatBody, CHAT, {*OF_CHATS, *ChatBody.model_fields} - {*CHAT}),
        (CompletionBody, PROMPT, {*OF_COMPLETIONS, *CompletionBody.model_fields} - {*PROMPT}),
    ],
    ids=["chat", "completion"],
)
def test_null_is_as_good_as_absent(kind: type[Body], body: dict[str, Any], names: set[str]) -> None:
    without = parse(body, kind).requests(MATH)
    for name in sorted(names):
        assert parse(body | {name: None}, kind).requests(MATH) == without, name
    assert parse(body | dict.fromkeys(names), kind).requests(MATH) == without
    for name in body:
        assert refusal(body | {name: None}, kind).param == name


def test_null_inside_of_fields() -> None:
    options = {
        "stream": True,
        "stream_options": {"include_usage": None, "include_obfuscation": None},
    }
    assert parse(CHAT | options).include_usage is False
    part = {"type": "text", "text": "one", "cache_control": None}
    (request,) = parse(CHAT | {"messages": [{"role": "user", "content": [part]}]}).requests(MATH)
    assert request.messages == [{"role": "user", "content": "one"}]


def test_an_answer_may_be_sent_back() -> None:
    """As OpenAI's client dumps it."""
    answer = ChatCompletionMessage.model_validate(
        ChatAnswer("m")._content("Hello.")["message"] | {"annotations": [], "tool_calls": []}
    )
    for dumped in (
        answer.model_dump(),
        ChatCompletionMessage(role="assistant", content="Hello.").model_dump(),
        {"role": "assistant", "content": "Hello.", "name": None, "reasoning_content": None},
    ):
        messages = [*CHAT["messages"], dumped, {"role": "user", "content": "And?"}]
        (request,) = parse(CHAT | {"messages": messages}).requests(MATH)
        assert request.messages == [
            *CHAT["messages"],
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "And?"},
        ]


@pytest.mark.parametrize(
    "change",
    [{"refusal": "no"}, {"tool_calls": [{}]}, {"audio": {}}, {"annotations": [{}]}, {"name": "x"}],
    ids=str,
)
def test_what_a_message_may_not_have(change: dict[str, Any]) -> None:
    message = {"role": "assistant", "content": "x"} | change
    error = refusal(CHAT | {"messages": [message]})
    assert (error.status, error.param) == (400, "messages")
    assert error.message.startswith(f"messages.0.{next(iter(change))}: ")


@pytest.mark.parametrize(
    ("amateur", "expected"),
    [
        ({"last_tokens": 8}, {"amateur_last_tokens": 8}),
        ({"prompt": "hi", "model": ""}, {"amateur_text_input": "hi", "amateur_lora_name": ""}),
        ({"prompt": [5, 6]}, {"amateur_input_ids": [5, 6]}),
        (
            {"messages": [{"role": "developer", "content": "be rude"}], "lora_scale": 0.5},
            {
                "amateur_messages": [{"role": "system", "content": "be rude"}],
                "amateur_lora_scale": 0.5,
            },
        ),
    ],
)
def test_an_amateur(amateur: dict[str, Any], expected: dict[str, Any]) -> None:
    for body, kind in ((CHAT, ChatBody), (PROMPT, CompletionBody)):
        (plain,) = parse(body, kind).requests(MATH)
        (request,) = parse(body | {"amateur": amateur}, kind).requests(MATH)
        assert request == replace(plain, **expected)


def test_negative_prompts_and_guidance() -> None:
    """A guidance scale is 1 + beta; without a negative prompt the last token alone is one."""
    system = {"role": "system", "content": "be kind"}
    body = CHAT | {"messages": [system, *CHAT["messages"]]}
    guided = {"negative_prompt": "be rude", "guidance_scale": 1.5}
    (chat,) = parse(body | guided).requests(MATH)
    assert chat.amateur_messages == [{"role": "system", "content": "be rude"}, *CHAT["messages"]]
    assert (chat.decoding, chat.beta, chat.messages) == ("cold", 0.5, [system, *CHAT["messages"]])
    (completion,) = parse(PROMPT | guided, CompletionBody).requests(MATH)
    assert (completion.amateur_text_input, completion.beta) == ("be rude", 0.5)
    (alone,) = parse(PROMPT | {"guidance_scale": 3}, CompletionBody).requests(MATH)
    assert (alone.amateur_last_tokens, alone.beta, alone.decoding) == (1, 2.0, "cold")
    (of_base,) = parse(PROMPT | guided | {"model": "tiny"}, CompletionBody).requests(BASE)
    assert (of_base.decoding, of_base.lora_name) == ("cold", None)


@pytest.mark.parametrize(
    "change",
    [
        {"guidance_scale": 0.5},
        {"negative_prompt": ""},
        {"negative_prompt": "x", "amateur": {"last_tokens": 3}},
        {"guidance_scale": 2, "beta": 1},
        {"amateur": {"last_token": 3}},
        {"amateur": {"prompt": 3}},
        {"amateur": {"messages": []}},
    ],
    ids=str,
)
def test_contrast_that_means_nothing_is_refused(change: dict[str, Any]) -> None:
    for body, kind in ((CHAT, ChatBody), (PROMPT, CompletionBody)):
        error = refusal(body | change, kind)
        assert (error.status, error.param) == (400, list(change)[-1])


def test_biases_of_tokens() -> None:
    for body, kind in ((CHAT, ChatBody), (PROMPT, CompletionBody)):
        (request,) = parse(body | {"logit_bias": {"5": -100, "7": 1.5}}, kind).requests(MATH)
        assert request.logit_bias == {5: -100, 7: 1.5}
