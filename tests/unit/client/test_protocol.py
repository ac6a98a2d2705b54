from __future__ import annotations

import json
import math
from typing import Any

import pytest

from cold_client import InvalidRequest, Piece, ProtocolError, Request, ServerError, TokenContrast
from cold_client._protocol import (
    INPUTS,
    Events,
    grpc_reply,
    grpc_request,
    json_error,
    json_reply,
    json_request,
    pack,
    unpack,
)

from .fake_grpc import failure, piece, reply

FULL = Request(
    text_input="é\n",
    messages=[{"role": "user", "content": "hi"}],
    input_ids=(1, 2**40),
    continuation=" é",
    lora_name="equations",
    decoding="cold",
    alpha=1,
    beta=0.5,
    beta_rule="divergence",
    lora_scale=1.5,
    lora_names=["equations", "é"],
    lora_scales=[1, 0.5],
    amateur_text_input="another",
    amateur_messages=[{"role": "user", "content": "ho"}],
    amateur_input_ids=[3],
    amateur_last_tokens=2,
    amateur_lora_name="",
    amateur_lora_scale=1,
    cache_salt="é",
    logit_bias={5: -100, 7: 0.5},
    top_logprobs=3,
    beam_width=3,
    length_penalty=0,
    early_stopping=True,
    temperature=0,
    top_k=5,
    top_p=1,
    min_p=0,
    repetition_penalty=1,
    presence_penalty=-2,
    frequency_penalty=2,
    seed=2**64 - 1,
    max_tokens=7,
    min_tokens=1,
    stop_words=["a", "ü"],
    bad_words=["b"],
    ignore_eos=True,
    exclude_input_in_output=False,
    deadline_s=30.0,
    priority=2,
    return_log_probs=True,
    return_num_output_tokens=True,
    return_num_cached_tokens=True,
    return_contrast=True,
)


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("BYTES", ["", "é", "\u2028\x00"]),
        ("BYTES", []),
        ("BOOL", [True, False]),
        ("INT32", [-1, 2**31 - 1]),
        ("INT64", [-(2**63)]),
        ("UINT64", [2**64 - 1]),
        ("FP32", [0.5, math.inf]),
    ],
)
def test_tensors_round_trip(datatype: str, values: list[Any]) -> None:
    assert unpack(datatype, pack(datatype, values)) == values


def test_bytes_are_length_prefixed_little_endian() -> None:
    assert pack("BYTES", ["ab", "é"]) == b"\x02\0\0\0ab\x02\0\0\0\xc3\xa9"


def test_grpc_request_carries_every_input() -> None:
    message = grpc_request(FULL, stream=True)
    assert message.model_name == "cold"
    assert message.parameters["triton_enable_empty_final_response"].bool_param
    sent = {}
    for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True):
        sent[tensor.name] = unpack(tensor.datatype, raw)
        assert list(tensor.shape) == [1, len(sent[tensor.name])]
        assert tensor.datatype == INPUTS[tensor.name]
    assert set(sent) == set(INPUTS)
    assert sent["stream"] == [True]
    assert sent["stop_words"] == ["a", "ü"]
    assert sent["seed"] == [2**64 - 1]
    assert json.loads(sent["logit_bias"][0]) == {"5": -100, "7": 0.5}
    assert json.loads(sent["messages"][0]) == [{"role": "user", "content": "hi"}]


def test_json_request_carries_every_input() -> None:
    sent = json.loads(json_request(FULL, stream=False))
    assert set(sent) == set(INPUTS)
    assert sent["stream"] is False
    assert sent["input_ids"] == [1, 2**40]
    assert sent["bad_words"] == ["b"]
    assert isinstance(sent["alpha"], float)
    assert sent["early_stopping"] == "true"
    assert json.loads(sent["messages"]) == [{"role": "user", "content": "hi"}]


def test_what_is_not_given_is_not_sent() -> None:
    sent = json.loads(json_request(Request(text_input="a"), stream=True))
    assert set(sent) == {
        "text_input",
        "stream",
        "return_finish_reason",
        "return_num_input_tokens",
    }


def test_one_stop_word_needs_no_list() -> None:
    assert json.loads(json_request(Request(stop_words="ab"), stream=True))["stop_words"] == ["ab"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text_input", 5),
        ("text_input", "\ud800"),
        ("alpha", "much"),
        ("beta", 1e39),
        ("top_k", 2**31),
        ("top_k", 0.5),
        ("seed", -1),
        ("input_ids", 5),
        ("messages", [{"role": object()}]),
    ],
)
def test_values_that_cannot_be_sent_name_their_field(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        grpc_request(Request(**{field: value}), stream=True)
    assert caught.value.field == field


def test_a_full_reply_is_read() -> None:
    got, final = grpc_reply(
        piece(
            "é",
            5,
            6,
            final=True,
            finish_reason=("BYTES", ["stop"]),
            num_input_tokens=("INT32", [3]),
            num_output_tokens=("INT32", [2]),
            num_cached_tokens=("INT32", [0]),
            output_log_probs=("FP32", [-0.5, -1]),
            decoding_log_probs=("FP32", [-0.25, -3]),
            contrast_expert_log_probs=("FP32", [-0.5, -1]),
            contrast_base_log_probs=("FP32", [-2, -4]),
            contrast_valid_counts=("INT32", [1, 3]),
            contrast_changed=("BOOL", [False, True]),
        )
    )
    assert final
    assert got == Piece(
        text="é",
        token_ids=(5, 6),
        finish_reason="stop",
        num_input_tokens=3,
        num_output_tokens=2,
        num_cached_tokens=0,
        log_probs=(-0.5, -1.0),
        decoding_log_probs=(-0.25, -3.0),
        contrast=(TokenContrast(-0.5, -2.0, 1, False), TokenContrast(-1.0, -4.0, 3, True)),
    )


def test_an_empty_final_reply_has_no_piece() -> None:
    assert grpc_reply(reply(final=True)) == (None, True)


def test_an_error_message_in_the_stream_is_raised() -> None:
    with pytest.raises(ServerError, match="it broke"):
        grpc_reply(failure("it broke"))


def _broken(raw: bytes, datatype: str = "BYTES") -> Any:
    message = reply()
    message.infer_response.outputs.add(name="text_output", datatype=datatype, shape=[1, 1])
    message.infer_response.raw_output_contents.append(raw)
    return message


@pytest.mark.parametrize(
    "message",
    [
        _broken(b"\x05\0\0\0ab"),
        _broken(b"\x05\0"),
        _broken(b"\x01\0\0\0\xff"),
        _broken(b"", "FP64"),
        _broken(b""),
        reply(token_ids=("INT64", [1])),
        piece("a", 1, contrast_changed=("BOOL", [True])),
    ],
)
def test_malformed_replies_are_protocol_errors(message: Any) -> None:
    with pytest.raises(ProtocolError):
        grpc_reply(message)


def test_json_scalars_and_lists_are_the_same() -> None:
    scalar = b'{"model_name":"cold","text_output":"a","token_ids":5,"output_log_probs":-0.5}'
    listed = b'{"text_output":["a"],"token_ids":[5],"output_log_probs":[-0.5]}'
    assert (
        json_reply(scalar)
        == json_reply(listed)
        == Piece(text="a", token_ids=(5,), log_probs=(-0.5,))
    )


def test_json_may_hold_nan() -> None:
    got = json_reply(b'{"text_output":"a","token_ids":[5,6],"output_log_probs":[NaN,-Infinity]}')
    assert math.isnan(got.log_probs[0])
    assert got.log_probs[1] == -math.inf


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"\xff", b'{"text_output":"a","token_ids":"b"}']
)
def test_malformed_json_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        json_reply(body)


def test_an_error_in_json_is_raised() -> None:
    with pytest.raises(InvalidRequest) as caught:
        json_reply(b'{"error":"alpha: must be in (0, 1], got 7"}')
    assert caught.value.field == "alpha"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":"no"}', "no"),
        (b'data: {"error":"no"}\n\n', "no"),
        (b"<html>", "<html>"),
        (b'{"other":1}', '{"other":1}'),
    ],
)
def test_json_error(body: bytes, message: str) -> None:
    assert json_error(body) == message


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_events_may_be_cut_anywhere(size: int) -> None:
    body = 'data: {"a":"x\u2028\x85y"}\r\n\r\n: comment\ndata:{"b":1}\n\n'.encode()
    events = Events()
    got = [
        json.loads(event)
        for start in range(0, len(body), size)
        for event in events.feed(body[start : start + size])
    ]
    assert got == [{"a": "x\u2028\x85y"}, {"b": 1}]
    assert events.rest == b""
