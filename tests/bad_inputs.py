"""Inputs of `cold` that are refused: by the parser, and by a real server."""

from __future__ import annotations

import json
from typing import Any

from cold_client import Request

HELLO: dict[str, Any] = {"text_input": "Once upon a time"}
# Field that the error names, and the inputs.
BAD: list[tuple[str, dict[str, Any]]] = [
    ("alpha", HELLO | {"alpha": 0.0}),
    ("alpha", HELLO | {"alpha": 1.5}),
    ("beta", HELLO | {"beta": -0.1}),
    ("lora_scale", HELLO | {"lora_scale": -0.5}),
    ("lora_scale", HELLO | {"lora_scale": 8.5}),
    ("temperature", HELLO | {"temperature": -1.0}),
    ("top_p", HELLO | {"top_p": 0.0}),
    ("top_k", HELLO | {"top_k": -1}),
    ("min_p", HELLO | {"min_p": 1.1}),
    ("repetition_penalty", HELLO | {"repetition_penalty": 0.0}),
    ("presence_penalty", HELLO | {"presence_penalty": 2.5}),
    ("max_tokens", HELLO | {"max_tokens": 0}),
    ("max_tokens", HELLO | {"max_tokens": 100000}),
    ("min_tokens", HELLO | {"max_tokens": 2, "min_tokens": 3}),
    ("decoding", HELLO | {"decoding": "beams"}),
    ("beam_width", HELLO | {"decoding": "beam", "beam_width": 1}),
    ("beam_width", HELLO | {"decoding": "beam", "beam_width": 17}),
    ("beam_width", HELLO | {"decoding": "cold", "beam_width": 4}),
    ("length_penalty", HELLO | {"decoding": "beam", "length_penalty": 11.0}),
    ("length_penalty", HELLO | {"length_penalty": 0.0}),
    ("early_stopping", HELLO | {"decoding": "cold_beam", "early_stopping": "soon"}),
    ("early_stopping", HELLO | {"early_stopping": "true"}),
    ("temperature", HELLO | {"decoding": "beam", "temperature": 1.0}),
    ("top_k", HELLO | {"decoding": "cold_beam", "top_k": 5}),
    ("repetition_penalty", HELLO | {"decoding": "beam", "repetition_penalty": 1.2}),
    ("lora_name", HELLO | {"lora_name": "../../etc/passwd"}),
    ("text_input", {"text_input": ""}),
    ("text_input", {"max_tokens": 5}),
    ("text_input", {"text_input": "word " * 1000}),
    ("text_input", HELLO | {"input_ids": [1]}),
    ("messages", {"messages": "{"}),
    ("messages", {"messages": "[]"}),
    ("messages", {"messages": '[{"role": "user"}]'}),
    ("input_ids", {"input_ids": [5, 49152]}),
    ("input_ids", {"input_ids": [-1]}),
    ("text_input", {"text_input": "x" * 50_000}),
    ("messages", {"messages": "[" + " " * 50_000 + "]"}),
    ("messages", {"messages": json.dumps([{"role": "user", "content": ""}] * 1100)}),
    ("messages", {"messages": '[{"role": "user", "content": "x", "name": "y"}]'}),
    ("messages", {"messages": r'[{"role": "user", "content": "\ud800"}]'}),
    ("input_ids", {"input_ids": [1] * 5000}),
    ("lora_name", HELLO | {"lora_name": "x" * 65}),
    ("beta", HELLO | {"beta": 1001.0}),
    ("logit_bias", HELLO | {"logit_bias": "{"}),
    ("logit_bias", HELLO | {"logit_bias": "[5]"}),
    ("logit_bias", HELLO | {"logit_bias": '{"49152": 1}'}),
    ("logit_bias", HELLO | {"logit_bias": '{"-1": 1}'}),
    ("logit_bias", HELLO | {"logit_bias": '{"\u0665": 1}'}),
    ("logit_bias", HELLO | {"logit_bias": '{"5": 100.5}'}),
    ("logit_bias", HELLO | {"logit_bias": '{"5": NaN}'}),
    ("logit_bias", HELLO | {"logit_bias": '{"5": true}'}),
    ("logit_bias", HELLO | {"logit_bias": '{"5": "1"}'}),
    ("logit_bias", HELLO | {"logit_bias": json.dumps(dict.fromkeys(range(1025), 1))}),
    ("logit_bias", HELLO | {"logit_bias": " " * 40_000}),
    ("logit_bias", HELLO | {"logit_bias": '{"5": 1}', "decoding": "beam"}),
    ("logit_bias", HELLO | {"logit_bias": '{"5": 1}', "continuation": " there"}),
    ("amateur_text_input", HELLO | {"amateur_text_input": ""}),
    ("amateur_text_input", HELLO | {"amateur_text_input": "word " * 1000}),
    ("amateur_messages", HELLO | {"amateur_messages": "[]"}),
    ("amateur_input_ids", HELLO | {"amateur_input_ids": [49152]}),
    ("amateur_input_ids", HELLO | {"amateur_text_input": "a", "amateur_input_ids": [5]}),
    ("amateur_last_tokens", HELLO | {"amateur_last_tokens": 0}),
    ("amateur_last_tokens", HELLO | {"amateur_last_tokens": 2, "amateur_text_input": "a"}),
    ("amateur_last_tokens", HELLO | {"amateur_last_tokens": 2, "decoding": "greedy"}),
    ("amateur_lora_name", HELLO | {"amateur_lora_name": "", "decoding": "base"}),
    ("amateur_lora_name", HELLO | {"amateur_lora_name": "nobody"}),
    ("amateur_lora_scale", HELLO | {"amateur_lora_scale": 1.0}),
    ("amateur_lora_scale", HELLO | {"amateur_last_tokens": 2, "amateur_lora_scale": 8.5}),
    ("max_tokens", HELLO | {"amateur_input_ids": [5] * 600, "max_tokens": 41}),
    ("top_logprobs", HELLO | {"top_logprobs": -1}),
    ("top_logprobs", HELLO | {"top_logprobs": 21}),
    ("top_logprobs", HELLO | {"top_logprobs": 1, "decoding": "beam"}),
    ("cache_salt", HELLO | {"cache_salt": "x" * 65}),
    ("temperature", HELLO | {"temperature": 1e-6}),
    ("stop_words", HELLO | {"stop_words": ["a", ""]}),
    ("stop_words", HELLO | {"stop_words": ["a"] * 65}),
    ("bad_words", HELLO | {"bad_words": ["é" * 129]}),
    ("return_contrast", HELLO | {"decoding": "base", "return_contrast": True}),
    ("continuation", HELLO | {"continuation": ""}),
    ("continuation", HELLO | {"continuation": "word " * 1000}),
    ("continuation", HELLO | {"continuation": "x" * 50_000}),
    ("continuation", HELLO | {"continuation": "a", "decoding": "beam"}),
    ("max_tokens", HELLO | {"continuation": "a", "max_tokens": 1}),
    ("stop_words", HELLO | {"continuation": "a", "stop_words": ["b", "c"]}),
    ("temperature", HELLO | {"continuation": "a", "temperature": 1.0}),
]


def as_request(body: dict[str, Any]) -> Request:
    values = dict(body)
    if "messages" in values:
        try:
            values["messages"] = json.loads(values["messages"])
        except ValueError:
            values["messages"] = "not a list"
    return Request(**values)
