"""The way in without a server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cold_backend import Cold
from cold_backend.config import Settings
from cold_backend.errors import InvalidRequestError, StepError
from cold_backend.requests.answer import FinishReason
from tests.fakes import CountingStep


@pytest.fixture(scope="module")
def made(base_model: Path) -> tuple[Cold, CountingStep]:
    step = CountingStep()
    settings = Settings(base_model=str(base_model), adapters={"a": "p"}, max_context=128)
    return Cold.over(settings, step), step


@pytest.fixture
def step(made: tuple[Cold, CountingStep]) -> CountingStep:
    made[1].steps.clear()
    made[1].before = lambda: None
    return made[1]


@pytest.fixture
def cold(made: tuple[Cold, CountingStep], step: CountingStep) -> Cold:
    return made[0]


def test_answers_come_in_the_order_of_the_prompts(cold: Cold) -> None:
    prompts = ["one", [5, 6, 7], [{"role": "user", "content": "two"}], np.arange(5, 9).tolist()]
    answers = cold.generate(prompts, max_tokens=3)
    assert [[token.id for token in one.tokens] for one in answers] == [[100, 101, 102]] * 4
    assert {one.finish_reason for one in answers} == {FinishReason.LENGTH}
    assert all(0 < one.ttft_s <= one.latency_s for one in answers)
    (alone,) = cold.generate("one", max_tokens=3)
    assert alone.text == answers[0].text


def test_a_stream_comes_in_pieces_beside_others(cold: Cold, step: CountingStep) -> None:
    first, second = (cold.stream("a", max_tokens=n, lora_name="a") for n in (4, 9))
    pieces = [next(second), *first, *second]
    assert len(pieces) > 4
    assert sum(len(piece.tokens) for piece in pieces) == 13
    assert max(len(one.choices) for one in step.steps) == 2


def test_who_stops_listening_ends_the_stream(cold: Cold, step: CountingStep) -> None:
    stream = cold.stream("a", max_tokens=100)
    next(stream)
    stream.close()
    cold._engine._next_check_s = 0.0
    cold.generate("b", max_tokens=3)
    assert len(step.steps[-1].choices) == 1


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"temprature": 1.0}, "temprature: is not a field"),
        ({"top_k": 1.5}, "top_k: must be of type INT32, got 1.5"),
        ({"top_k": 2**31}, "top_k: must be of type INT32"),
        ({"top_k": True}, "top_k: must be of type INT32"),
        ({"seed": -1}, "seed: must be of type UINT64"),
        ({"stream": 1}, "stream: must be of type BOOL"),
        ({"beta": "2"}, "beta: must be of type FP32"),
        ({"beta": [1.0, 2.0]}, "beta: must be one value, got 2"),
        ({"beta": -1}, "beta: must be in"),
        ({"stop_words": [1]}, "stop_words: must be of type STRING"),
        ({"lora_name": "b"}, "lora_name: no adapter 'b'; there are: a"),
        ({"lora_names": ["a", "b"]}, "lora_names: no adapter 'b'; there are: a"),
        ({"amateur_lora_name": "b"}, "amateur_lora_name: no adapter 'b'; there are: a"),
    ],
)
def test_a_wrong_field_is_named(cold: Cold, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        cold.generate("one", **fields)
    assert len(cold.generate("one", max_tokens=2)[0].tokens) == 2


def test_what_is_json_may_be_pythons(cold: Cold) -> None:
    chat = [{"role": "user", "content": "hi"}]
    request = cold.request("one", amateur_messages=chat, logit_bias={5: 1.5})
    assert request == replace(
        cold.request(
            "one", amateur_messages='[{"role": "user", "content": "hi"}]', logit_bias='{"5": 1.5}'
        ),
        sampling=request.sampling,
    )
    assert request.amateur and request.logit_bias == ((5, 1.5),)


def test_a_step_that_fails_is_told(cold: Cold, step: CountingStep) -> None:
    def fail() -> None:
        raise RuntimeError("a secret")

    step.before = fail
    with pytest.raises(StepError, match="the decoding step failed"):
        cold.generate("one")
