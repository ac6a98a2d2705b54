"""Hypothesis strategies: bodies and tensors, most of them nearly right."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from cold_client._protocol import INPUTS, LISTS, pack
from cold_client.gateway.bodies import ChatBody, CompletionBody

_TEXT = st.text(min_size=1, max_size=30)
_MESSAGES = [{"role": "user", "content": "Hi"}]
_WORDS = st.lists(_TEXT, max_size=3)
# Values that are all right by themselves. Answers are kept short: what is under test is the input.
_GOOD: dict[str, st.SearchStrategy[Any]] = {
    "text_input": _TEXT,
    "messages": st.just(json.dumps(_MESSAGES)),
    "input_ids": st.lists(st.integers(0, 49151), min_size=1, max_size=20),
    "continuation": _TEXT,
    "lora_name": st.just("equations"),
    "decoding": st.sampled_from(["cold", "greedy", "base", "beam", "cold_beam"]),
    "beam_width": st.sampled_from([1, 2, 16]),
    "length_penalty": st.sampled_from([-10.0, 0.0, 1.0, 10.0]),
    "beta_rule": st.sampled_from(["fixed", "divergence"]),
    "lora_names": st.lists(
        st.sampled_from(["equations", "flipped", "nobody"]), min_size=1, max_size=3
    ),
    "lora_scales": st.lists(st.sampled_from([0.0, 1.0, 8.0]), min_size=1, max_size=3),
    "early_stopping": st.sampled_from(["true", "false", "never"]),
    "alpha": st.sampled_from([1e-30, 0.1, 1.0]),
    "beta": st.sampled_from([0.0, 0.5, 1000.0]),
    "lora_scale": st.sampled_from([0.0, 1.0, 1.5, 8.0]),
    "amateur_text_input": _TEXT,
    "amateur_messages": st.just('[{"role": "user", "content": "hi"}]'),
    "amateur_input_ids": st.just([5, 6, 7]),
    "amateur_last_tokens": st.sampled_from([1, 3, 2**31 - 1]),
    "amateur_lora_name": st.sampled_from(["", "equations", "nobody"]),
    "amateur_lora_scale": st.sampled_from([0.0, 0.5, 8.0]),
    "cache_salt": st.sampled_from(["", "mine", "é"]),
    "logit_bias": st.sampled_from(["", "{}", '{"5": -100, "49151": 1e-9}', '{"0": 100}']),
    "top_logprobs": st.sampled_from([0, 1, 20]),
    "temperature": st.sampled_from([0.0, 0.001, 0.7, 1000.0]),
    "top_k": st.sampled_from([0, 1, 50, 2**31 - 1]),
    "top_p": st.sampled_from([1e-30, 0.5, 1.0]),
    "min_p": st.sampled_from([0.0, 0.1, 1.0]),
    "repetition_penalty": st.sampled_from([0.001, 1.1, 1000.0]),
    "presence_penalty": st.floats(-2, 2, width=32),
    "frequency_penalty": st.floats(-2, 2, width=32),
    "seed": st.integers(0, 2**64 - 1),
    "max_tokens": st.integers(1, 2),
    "min_tokens": st.integers(0, 1),
    "stop_words": _WORDS,
    "bad_words": _WORDS,
    "deadline_s": st.sampled_from([100.0, 3e38]),
    "priority": st.integers(0, 2),
}
_GOOD |= {name: st.booleans() for name, datatype in INPUTS.items() if datatype == "BOOL"}
_ODD_NUMBERS = st.sampled_from([-1, 0, 2**31, 2**63, 2**64, -(2**63), 1e-46, 1e39, -0.0, 1.5])
_ODD: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | _ODD_NUMBERS | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
_MANY_WORDS = st.just(["x"] * 65) | st.just(["x" * 300])
_PROMPTS = ("text_input", "messages", "input_ids")
_DATATYPES = ["BOOL", "INT8", "INT32", "INT64", "UINT64", "FP16", "FP32", "FP64", "BYTES", "X", ""]


@st.composite
def generate_bodies(draw: st.DrawFn) -> bytes:
    """Bodies of POST /v2/models/cold/generate."""
    name = draw(st.sampled_from(_PROMPTS))
    body = {name: draw(_GOOD[name]), "max_tokens": draw(_GOOD["max_tokens"])}
    for name in draw(st.lists(st.sampled_from([*INPUTS, "id", "parameters", "x"]), max_size=5)):
        body[name] = draw(_GOOD.get(name, _ODD) | _ODD | _MANY_WORDS)
    return draw(_damaged(json.dumps(body).encode()))


@st.composite
def gateway_bodies(draw: st.DrawFn, *, chat: bool) -> bytes:
    """Bodies of POST /v1/chat/completions and POST /v1/completions."""
    prompt = {"messages": _MESSAGES} if chat else {"prompt": draw(_TEXT)}
    body: dict[str, Any] = {"model": "equations", "max_tokens": 1} | prompt
    fields = sorted((ChatBody if chat else CompletionBody).model_fields)
    for name in draw(st.lists(st.sampled_from([*fields, "x"]), max_size=4)):
        body[name] = draw(_GOOD.get(name, _ODD) | _ODD)
    return draw(_damaged(json.dumps(body).encode()))


@dataclass(frozen=True)
class RawTensor:
    """An input as gRPC carries it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes


@st.composite
def tensors(draw: st.DrawFn) -> list[RawTensor]:
    """Inputs of `cold` over gRPC: right ones, and ones of another type, shape, size or encoding."""
    name = draw(st.sampled_from(_PROMPTS))
    chosen = [name, "max_tokens", *draw(st.lists(st.sampled_from(list(INPUTS)), max_size=4))]
    inputs = [_right_tensor(name, draw(_GOOD[name])) for name in dict.fromkeys(chosen)]
    for place in draw(st.lists(st.integers(0, len(inputs) - 1), max_size=2)):
        inputs[place] = draw(_wrong_tensors(inputs[place]))
    return inputs


def _right_tensor(name: str, value: Any) -> RawTensor:
    values = value if name in LISTS else [value]
    return RawTensor(name, INPUTS[name], (1, len(values)), pack(INPUTS[name], values))


@st.composite
def _wrong_tensors(draw: st.DrawFn, right: RawTensor) -> RawTensor:
    # A number of 2^60 ids and more ends tritonserver 2.51's model process: docs/protocol.md.
    size = st.integers(-2, 5) | st.just(2**31) | st.just(2**59)
    shape = st.lists(size, max_size=3).map(tuple)
    name, datatype, raw = right.name, right.datatype, right.raw
    what = draw(st.sampled_from(["name", "datatype", "shape", "raw", "utf8", "words", "number"]))
    if what == "name":
        return RawTensor(draw(st.text(max_size=9)), datatype, right.shape, raw)
    if what == "datatype":
        return RawTensor(name, draw(st.sampled_from(_DATATYPES)), right.shape, raw)
    if what == "shape":
        return RawTensor(name, datatype, draw(shape), raw)
    if what == "number" and datatype in ("FP32", "INT32"):
        return RawTensor(name, datatype, right.shape, draw(st.binary(min_size=4, max_size=4)))
    if what == "utf8" and datatype == "BYTES":
        text = draw(st.binary(max_size=300))
        return RawTensor(name, datatype, (1, 1), struct.pack("<I", len(text)) + text)
    if what == "words" and name in ("stop_words", "bad_words"):
        return RawTensor(name, datatype, (1, 65), pack("BYTES", ["x"] * 65))
    return RawTensor(name, datatype, right.shape, draw(_damaged(raw)))


@st.composite
def _damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes as they are, or one time in four, cut or with others put in."""
    if not whole or draw(st.integers(0, 3)):
        return whole
    start = draw(st.integers(0, len(whole) - 1))
    end = draw(st.integers(start, min(len(whole), start + 8)))
    return whole[:start] + draw(st.binary(max_size=6)) + whole[end:]
