"""Contrast with another prompt, or with the same adapter: what is asked for, and what is fed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cold_backend.config import Settings
from cold_backend.contract import NONE, Reader
from cold_backend.engine.waiting import WaitingQueue
from cold_backend.errors import InvalidRequestError
from cold_backend.requests.amateur import Amateur
from cold_backend.requests.mixture import Mixture
from cold_backend.requests.parser import RequestParser
from cold_backend.requests.sequence import Sequence
from cold_backend.text.tokenizer import Tokenizer
from tests.fakes import RandomModel, new_engine, new_scheduler, run_all, sequence, sink

SETTINGS = Settings(base_model="m", adapters={"a": "p", "b": "p"}, max_context=512)
PROMPT = [*range(200, 260)]
OTHER = [*range(300, 320)]


@pytest.fixture
def parser(tokenizer: Tokenizer) -> RequestParser:
    return RequestParser(SETTINGS, tokenizer)


def ask(parser: RequestParser, tokenizer: Tokenizer, **inputs: Any) -> Sequence:
    inputs = {"max_tokens": 5, "ignore_eos": True, "lora_name": b"a"} | inputs
    return sequence(parser, tokenizer, **({"input_ids": PROMPT} | inputs))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({}, None),
        ({"amateur_input_ids": OTHER}, (OTHER, (("a", 1.0),))),
        ({"amateur_input_ids": OTHER, "lora_scale": 0.5}, (OTHER, (("a", 0.5),))),
        ({"amateur_input_ids": OTHER, "amateur_lora_scale": 2.0}, (OTHER, (("a", 2.0),))),
        ({"amateur_input_ids": OTHER, "amateur_lora_name": b""}, (OTHER, ())),
        ({"amateur_last_tokens": 7}, (PROMPT[-7:], (("a", 1.0),))),
        ({"amateur_last_tokens": 600}, (PROMPT, (("a", 1.0),))),
        ({"amateur_lora_name": b"a", "amateur_lora_scale": 0.0}, (PROMPT, (("a", 0.0),))),
        ({"amateur_lora_name": b"a", "lora_scale": 0.5}, (PROMPT, (("a", 0.5),))),
        ({"amateur_lora_name": b""}, (PROMPT, ())),
        ({"amateur_lora_name": b"b", "lora_scale": 0.5}, (PROMPT, (("b", 1.0),))),
        ({"amateur_lora_name": b"b", "amateur_lora_scale": 0.5}, (PROMPT, (("b", 0.5),))),
        ({"amateur_lora_name": b"b", "amateur_last_tokens": 2}, (PROMPT[-2:], (("b", 1.0),))),
    ],
    ids=str,
)
def test_what_is_contrasted_with(
    inputs: dict[str, Any],
    expected: tuple[list[int], Mixture] | None,
    parser: RequestParser,
    tokenizer: Tokenizer,
) -> None:
    found = ask(parser, tokenizer, **inputs).request.amateur
    if expected is None:
        assert found is None
    else:
        prompt, adapters = expected
        assert found == Amateur(prompt=(*prompt,), adapters=adapters)


def test_text_and_chats_are_tokenised(parser: RequestParser, tokenizer: Tokenizer) -> None:
    text = ask(parser, tokenizer, amateur_text_input=b"another prompt").request.amateur
    assert text and list(text.prompt) == tokenizer.encode("another prompt")
    chat = b'[{"role": "user", "content": "another"}]'
    found = ask(parser, tokenizer, amateur_messages=chat).request.amateur
    messages = [{"role": "user", "content": "another"}]
    assert found and list(found.prompt) == tokenizer.encode_chat(messages)


def test_the_longer_prompt_leaves_the_room(parser: RequestParser, tokenizer: Tokenizer) -> None:
    long = [5] * 500
    assert ask(parser, tokenizer, amateur_input_ids=long, max_tokens=12)
    with pytest.raises(InvalidRequestError, match="max_tokens"):
        ask(parser, tokenizer, amateur_input_ids=long, max_tokens=13)
    with pytest.raises(InvalidRequestError, match="amateur_text_input"):
        ask(parser, tokenizer, amateur_text_input=b"word " * 600)


def test_without_an_adapter_there_must_be_another_prompt(tokenizer: Tokenizer) -> None:
    parser = RequestParser(Settings(base_model="m", max_context=512), tokenizer)
    request = ask(parser, tokenizer, lora_name=b"", amateur_input_ids=OTHER).request
    assert request.adapter == "" and request.amateur and not request.amateur.adapters
    for inputs in ({}, {"amateur_lora_name": b""}):
        with pytest.raises(InvalidRequestError, match="decoding"):
            ask(parser, tokenizer, lora_name=b"", **inputs)


def test_each_reads_its_own_prompt_and_both_the_output(
    parser: RequestParser, tokenizer: Tokenizer
) -> None:
    everyone = {
        "other": ask(parser, tokenizer, amateur_input_ids=OTHER),
        "last": ask(parser, tokenizer, amateur_last_tokens=3, amateur_lora_name=b""),
        "weak": ask(parser, tokenizer, amateur_lora_name=b"a", amateur_lora_scale=0.5),
        "cold": ask(parser, tokenizer),
    }
    amateurs = {"other": OTHER, "last": PROMPT[-3:], "weak": PROMPT, "cold": PROMPT}
    kinds = {name: one.request.amateur_kind for name, one in everyone.items()}
    assert kinds == {"other": "prompt", "last": "prompt", "weak": "adapter", "cold": "base"}
    readers = {"other": (0, 1.0), "last": (NONE, 1.0), "weak": (0, 0.5), "cold": (NONE, 1.0)}
    for name, one in everyone.items():
        step = PairedModel()
        run_all(submitted(step, one), [one])
        assert sink(one).tokens == [100, 101, 102, 103, 104]
        for number, (expert, amateur, rows) in enumerate(step.read):
            assert expert == [*PROMPT, *range(100, 100 + number)]
            assert amateur == [*amateurs[name], *range(100, 100 + number)]
            assert (rows[1]["adapters"][0], rows[1]["strengths"][0]) == readers[name]
            has_adapter = readers[name][0] != NONE
            assert rows[1]["reader"] == (Reader.EXPERT if has_adapter else Reader.BASE)


class PairedModel(RandomModel):
    """Keeps what expert and amateur of each choice have read."""

    def __init__(self, blocks: int = 4096, base_blocks: int = 64) -> None:
        super().__init__(blocks, base_blocks)
        self.read: list[tuple[list[int], list[int], Any]] = []

    def _agree(self, step: Any) -> None:
        for choice in step.choices:
            rows = [int(choice["expert"]), int(choice["base"])]
            self.read.append((*(self.held[row] for row in rows), step.rows[rows]))


def submitted(step: RandomModel, one: Sequence) -> Any:
    engine = new_engine(step, new_scheduler(4, max_step_tokens=16), 10)
    engine.submit(one)
    return engine


def test_equal_prompts_share_their_blocks(parser: RequestParser, tokenizer: Tokenizer) -> None:
    """Whether it is the expert or the amateur that has read them before."""
    step, scheduler = PairedModel(), new_scheduler(4, max_step_tokens=64)
    engine = new_engine(step, scheduler, 10)
    first = ask(parser, tokenizer, amateur_input_ids=OTHER)
    second = ask(parser, tokenizer, input_ids=[*OTHER, 7], amateur_input_ids=[*PROMPT, 7])
    for one in (first, second):
        engine.submit(one)
        while not sink(one).ends:
            engine.step()
    # 20 + 1 tokens of which 16 are a block, and what follows the 60th of the other prompt.
    assert sink(second).pieces[-1].cached_tokens == 16
    assert scheduler.memory.usage.reused_tokens == 16 + 48
    assert scheduler.memory.rooms == scheduler.memory.sizes


def test_two_contexts_that_no_pool_could_hold_are_refused(
    parser: RequestParser, tokenizer: Tokenizer
) -> None:
    """In an ensemble both are where the adapters are; without an adapter the amateur is not."""
    step = PairedModel(5, 5)
    engine = new_engine(step, new_scheduler(4, max_step_tokens=64), 10)
    refused = ask(parser, tokenizer, amateur_input_ids=PROMPT[::-1])  # 4 blocks each
    served = ask(parser, tokenizer, amateur_input_ids=PROMPT[::-1], amateur_lora_name=b"")
    for one in (refused, served):
        engine.submit(one)
    run_all(engine, [refused, served])
    assert isinstance(sink(refused).error, InvalidRequestError)
    assert str(sink(refused).error).startswith("amateur_lora_name: ")
    assert sink(served).error is None


def test_who_pays_for_a_long_amateur(parser: RequestParser, tokenizer: Tokenizer) -> None:
    """Fair shares and foreseen waits count the longer of the two prompts."""
    short = ask(parser, tokenizer, input_ids=[5], amateur_input_ids=PROMPT)
    assert short.request.longest_prompt == len(PROMPT)
    assert ask(parser, tokenizer, amateur_input_ids=[5]).request.longest_prompt == len(PROMPT)
    queue = WaitingQueue()
    others = [ask(parser, tokenizer, input_ids=[9] * 20, lora_name=b"b") for _ in range(3)]
    mine = [ask(parser, tokenizer, input_ids=[5], amateur_input_ids=PROMPT[:20]) for _ in range(3)]
    for one in (*mine, *others):
        queue.put(one)
    order = [one.request.adapter for one in queue.order(0.0)]
    assert order == ["a", "b"] * 3


def test_beams_contrast_with_another_prompt(parser: RequestParser, tokenizer: Tokenizer) -> None:
    step = PairedModel()
    wide = ask(parser, tokenizer, amateur_input_ids=OTHER, decoding=b"cold_beam", beam_width=3)
    run_all(submitted(step, wide), [wide])
    assert len(sink(wide).tokens) == 5
    for expert, amateur, _ in step.read:
        assert expert[len(PROMPT) :] == amateur[len(OTHER) :]
    assert max(len(one[0]) for one in step.read) == len(PROMPT) + 4
    assert np.all([one[2]["reader"] == Reader.EXPERT for one in step.read])
