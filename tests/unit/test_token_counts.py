"""What penalties look at is what stands in prompt and output."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cold_backend.config import Settings
from cold_backend.contract import COUNT
from cold_backend.requests.parser import RequestParser
from cold_backend.requests.token_counts import TokenCounts
from cold_backend.text.tokenizer import Tokenizer
from tests.fakes import CountingStep, new_engine, new_scheduler, run_all, sequence

ids = st.integers(0, 30) | st.integers(0, 2**40)


@given(st.lists(ids, max_size=40), st.lists(ids, max_size=300))
def test_counts_are_those_of_a_counter(prompt: list[int], output: list[int]) -> None:
    counts, expected = TokenCounts(prompt), Counter(dict.fromkeys(prompt, 0))
    for token in output:
        counts.add(token)
        expected[token] += 1
    found = counts.table(7)
    assert found.dtype == COUNT and set(found["choice"].tolist()) <= {7}
    assert len(found) == len(expected)
    assert dict(found[["token", "times"]].tolist()) == expected


def test_a_step_has_them_of_those_who_ask(tokenizer: Tokenizer) -> None:
    parser = RequestParser(Settings(base_model="m", adapters={"a": "p"}), tokenizer)
    step, prompt = CountingStep(), [5, 6, 5]
    everyone = [
        sequence(parser, tokenizer, input_ids=prompt, max_tokens=3, **how)
        for how in ({}, {"frequency_penalty": 1.0}, {"repetition_penalty": 1.1})
    ]
    engine = new_engine(step, new_scheduler(4, max_step_tokens=32), 10)
    for one in everyone:
        engine.submit(one)
    run_all(engine, everyone)
    seen = Counter(dict.fromkeys(prompt, 0))
    for made in step.steps:
        for choice, settings in enumerate(made.choices):
            told = made.counts[made.counts["choice"] == choice]
            asks = settings["frequency_penalty"] != 0 or settings["repetition_penalty"] != 1
            assert dict(told[["token", "times"]].tolist()) == (seen if asks else {})
        seen.update(100 + made.choices["position"][:1])  # what CountingStep picks for each
    assert seen == dict.fromkeys([5, 6], 0) | dict.fromkeys([100, 101, 102], 1)
