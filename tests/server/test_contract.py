"""What the real server accepts, refuses and returns, over HTTP and gRPC alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from cold_backend.text.tokenizer import Tokenizer
from cold_client import AdapterNotFound, Client, InvalidRequest, Request
from tests.bad_inputs import BAD, HELLO, as_request
from tests.conftest import Server
from tests.prompts import Prompt
from tests.reference import Reference

pytestmark = pytest.mark.server


@pytest.mark.parametrize(("field", "body"), BAD, ids=lambda v: v if isinstance(v, str) else "")
def test_bad_input_names_its_field(field: str, body: dict[str, Any], server: Server) -> None:
    answer = httpx.post(f"{server.http}/v2/models/cold/generate", json=body, timeout=30)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"{field}: ")
    assert "Traceback" not in answer.text
    with Client(server.grpc) as client, pytest.raises((InvalidRequest, AdapterNotFound)) as caught:
        client.generate(as_request(body))
    assert str(caught.value).find(f"{field}: ") >= 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("field", ["alpha", "beta", "temperature", "frequency_penalty"])
def test_numbers_that_are_none(field: str, value: float, server: Server) -> None:
    with Client(server.grpc) as client, pytest.raises(InvalidRequest, match=field):
        client.generate(as_request({"text_input": "Hello", field: value}))


def test_not_utf8(server: Server) -> None:
    body = b'{"text_input": "\xff\xfe"}'
    answer = httpx.post(f"{server.http}/v2/models/cold/generate", content=body, timeout=30)
    assert answer.status_code == 400
    assert "text_input" in answer.json()["error"] or "JSON" in answer.json()["error"]


def test_deeply_nested_json_and_large_bodies_do_no_harm(server: Server) -> None:
    """Without a larger stack, a tenth of these brackets ends tritonserver."""
    url = f"{server.http}/v2/models/cold/generate"
    for body in (b"[" * 1_000_000, b'{"x":' * 1_000_000):
        answer = httpx.post(url, content=body, timeout=30)
        assert "failed to parse the request JSON" in answer.json()["error"]
    answer = httpx.post(url, json={"text_input": "word " * 4_000_000}, timeout=30)
    assert answer.json()["error"].startswith("text_input: at most 10240 bytes, got 20000000")
    assert httpx.post(url, json=HELLO | {"max_tokens": 1}, timeout=30).is_success


def test_generate_gives_everything_that_was_asked_for(server: Server) -> None:
    body = HELLO | {
        "max_tokens": 5,
        "return_log_probs": True,
        "return_finish_reason": True,
        "return_num_input_tokens": True,
        "return_num_output_tokens": True,
        "return_contrast": True,
        "ignore_eos": True,
    }
    answer = httpx.post(f"{server.http}/v2/models/cold/generate", json=body, timeout=60).json()
    assert len(answer["token_ids"]) == 5
    assert answer["finish_reason"] == "length"
    assert (answer["num_input_tokens"], answer["num_output_tokens"]) == (4, 5)
    assert answer["output_log_probs"] == answer["contrast_expert_log_probs"]
    assert all(count >= 1 for count in answer["contrast_valid_counts"])
    assert len(answer["contrast_base_log_probs"]) == len(answer["contrast_changed"]) == 5


def test_echo_and_stream_text_agree(server: Server, tokenizer: Tokenizer) -> None:
    request = Request(text_input="Émile saw 🦜🦜 and", decoding="base", max_tokens=30)
    with Client(server.grpc) as client:
        whole = client.generate(request)
        with client.stream(request) as stream:
            pieces = [piece.text for piece in stream]
    assert "".join(pieces) == whole.text
    assert len(pieces) > 10
    assert not any("\ufffd" in piece for piece in pieces)
    assert whole.text == tokenizer.decode(
        [*tokenizer.encode("Émile saw 🦜🦜 and"), *whole.token_ids]
    ).removeprefix("Émile saw 🦜🦜 and").rstrip("\ufffd")


def test_stop_words_across_tokens_do_not_leak(server: Server) -> None:
    request = Request(text_input="1, 2, 3, 4,", decoding="base", max_tokens=40)
    with Client(server.grpc) as client:
        text = client.generate(request).text
        word = text[5:12]
        with client.stream(
            Request(text_input="1, 2, 3, 4,", decoding="base", max_tokens=40, stop_words=[word])
        ) as stream:
            pieces = list(stream)
    assert "".join(piece.text for piece in pieces) == text[: text.index(word)]
    assert pieces[-1].finish_reason == "stop"


@pytest.mark.parametrize("decoding", ["cold", "greedy", "base"])
def test_a_bias_decides(decoding: Any, server: Server) -> None:
    """Of a token that is nowhere near the valid set, and of the best one."""
    request = Request(text_input="The sky is", decoding=decoding, max_tokens=3, ignore_eos=True)
    with Client(server.grpc) as client:
        (best, *_) = client.generate(request).token_ids
        forced = client.generate(replace(request, logit_bias={4321: 100}))
        without = client.generate(replace(request, logit_bias={best: -100, 4321: 0}))
    assert forced.token_ids == (4321, 4321, 4321)
    assert without.token_ids[0] != best


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("decoding", ["cold", "greedy", "base"])
def test_alternatives_are_those_of_the_reference(
    decoding: Any, protocol: str, server: Server, prompts: list[Prompt], reference: Reference
) -> None:
    ids = prompts[0].ids
    request = Request(input_ids=ids, decoding=decoding, max_tokens=3, top_logprobs=4)
    with Client(getattr(server, protocol)) as client:
        result = client.generate(request)
        with client.stream(request) as stream:
            pieces = [*stream]
    assert tuple(best for piece in pieces for best in piece.alternatives) == result.alternatives
    assert [len(best) for best in result.alternatives] == [4] * len(result.token_ids)
    for number, best in enumerate(result.alternatives):
        expert, base = reference.logits((*ids, *result.token_ids[:number]))
        own = (base if decoding == "base" else expert).log_softmax(0)
        log_probs, tokens = own.topk(4)
        assert [one.token_id for one in best] == tokens.tolist()
        assert [one.log_prob for one in best] == pytest.approx(log_probs.tolist(), abs=1e-3)


def test_what_was_computed_before_is_told(server: Server) -> None:
    prompt = [*range(7000, 7100)]
    body: dict[str, Any] = {"input_ids": prompt, "max_tokens": 4, "return_num_cached_tokens": True}
    salted = body | {"cache_salt": "mine"}
    answers = [
        httpx.post(f"{server.http}/v2/models/cold/generate", json=one, timeout=60).json()
        for one in (body, body, salted, salted)
    ]
    assert [answer["num_cached_tokens"] for answer in answers] == [0, 96, 0, 96]
    assert len({tuple(answer["token_ids"]) for answer in answers}) == 1


def test_bad_words_and_penalties_change_the_choice(server: Server) -> None:
    with Client(server.grpc) as client:
        plain = client.generate(Request(text_input="The sky is", decoding="base", max_tokens=8))
        word = plain.text.split()[0]
        without = client.generate(
            Request(text_input="The sky is", decoding="base", max_tokens=8, bad_words=[word])
        )
        penalised = client.generate(
            Request(
                text_input="The sky is the sky is the sky is",
                decoding="base",
                max_tokens=8,
                frequency_penalty=2.0,
                repetition_penalty=1.5,
            )
        )
    assert word not in without.text.split()
    assert "sky" not in penalised.text


def test_models_tell_the_adapters(server: Server) -> None:
    with Client(server.http) as client:
        cold = next(model for model in client.models() if model.name == "cold")
    assert tuple(cold.adapters or ()) == ("equations", "flipped")
    assert cold.max_context == 640
