"""Blocks: shared where the content is the same, never while they are in use, never run out of."""

from __future__ import annotations

import random
from collections.abc import Sequence as Tokens
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cold_backend.adapters.served import ServedAdapter
from cold_backend.config import Settings
from cold_backend.contract import (
    BLOCK_TOKENS,
    NONE,
    AdapterReport,
    Reader,
    Step,
    StepResult,
    pack_reports,
    unpack_changes,
)
from cold_backend.engine.adapter_slots import AdapterSlots
from cold_backend.engine.block_pool import BlockPool
from cold_backend.engine.memory import Memory
from cold_backend.engine.scheduler import Scheduler
from cold_backend.errors import InvalidRequestError, StepError
from cold_backend.requests.parser import RequestParser
from cold_backend.requests.sequence import Sequence
from cold_backend.text.tokenizer import Tokenizer
from tests.fakes import RandomModel, new_engine, new_scheduler, run_all, sequence, sink, tables

SETTINGS = Settings(base_model="m", adapters={"a": "p", "b": "p"}, max_context=512, max_sequences=8)


@pytest.fixture
def parser(tokenizer: Tokenizer) -> RequestParser:
    return RequestParser(SETTINGS, tokenizer)


class Remembering(RandomModel):
    """Picks a token that depends on all that is in the blocks, and on the adapter.

    Knows of each block which content, adapter and strength it was filled under.
    """

    def __init__(self, blocks: int = 4096, base_blocks: int = 0) -> None:
        super().__init__(blocks, base_blocks)
        self._filled_by: dict[tuple[int, int], tuple[float, ...]] = {}

    def __call__(self, step: Step) -> StepResult:
        result = super().__call__(step)
        for copy in step.copies:
            pool = self._pool(copy["reader"])
            self._filled_by[pool, copy["target"]] = self._filled_by[pool, copy["source"]]
        for row, blocks in zip(step.rows, tables(step), strict=True):
            used = row["adapters"] >= 0
            reader = (*row["adapters"][used], *row["strengths"][used])
            for number, block in enumerate(blocks):
                where = self._pool(row["reader"]), block
                if number * BLOCK_TOKENS >= row["start"]:
                    self._filled_by[where] = reader
                assert self._filled_by[where] == reader, "read what another reader wrote"
        for number, choice in enumerate(step.choices):
            rows = [row for row in (choice["expert"], choice["base"]) if row >= 0]
            result.picks["token"][number] = self.token(self.held[rows[0]])
        return result

    @staticmethod
    def token(held: Tokens[int]) -> int:
        return 100 + hash(tuple(held)) % 40_000


def expected(one: Sequence) -> list[int]:
    tokens = [*one.request.prompt]
    for _ in range(one.request.max_tokens):
        tokens.append(Remembering.token(tokens))
    return tokens[len(one.request.prompt) :]


def ask(
    parser: RequestParser, tokenizer: Tokenizer, prompt: Tokens[int], **inputs: Any
) -> Sequence:
    inputs = {"max_tokens": 5, "ignore_eos": True, "lora_name": b"a"} | inputs
    return sequence(parser, tokenizer, input_ids=[*prompt], **inputs)


def answer(step: Remembering, scheduler: Scheduler, sequences: list[Sequence]) -> None:
    engine = new_engine(step, scheduler, 5000)
    for one in sequences:
        engine.submit(one)
    while not all(sink(one).ends for one in sequences):
        engine.step()
    for one in sequences:
        assert sink(one).error is None
        assert sink(one).tokens == expected(one)
    assert scheduler.memory.rooms == scheduler.memory.sizes
    assert scheduler.memory.usage.held == 0


def cached(one: Sequence) -> int:
    return sink(one).pieces[-1].cached_tokens


PROMPT = range(200, 300)


def test_a_prompt_is_computed_once(parser: RequestParser, tokenizer: Tokenizer) -> None:
    step, scheduler = Remembering(), new_scheduler(4, max_step_tokens=64)
    first, second = ask(parser, tokenizer, PROMPT), ask(parser, tokenizer, [*PROMPT, 7, 8])
    answer(step, scheduler, [first])
    computed = step.computed
    assert computed == 2 * (100 + 4)
    answer(step, scheduler, [second])
    assert (cached(first), cached(second)) == (0, 96)
    assert step.computed - computed == 2 * (6 + 4)


def test_the_answer_is_reused_in_the_next_turn(parser: RequestParser, tokenizer: Tokenizer) -> None:
    step, scheduler = Remembering(), new_scheduler(4, max_step_tokens=64)
    first = ask(parser, tokenizer, PROMPT, max_tokens=30)
    answer(step, scheduler, [first])
    computed = step.computed
    turn = ask(parser, tokenizer, [*PROMPT, *sink(first).tokens, 1, 2, 3], max_tokens=1)
    answer(step, scheduler, [turn])
    assert cached(turn) == 100 + 29  # all that had been fed, its last block not full
    assert step.computed - computed == 2 * (1 + 3)


def test_an_end_is_copied_by_everyone_who_goes_on_from_it(
    parser: RequestParser, tokenizer: Tokenizer
) -> None:
    step, scheduler = Remembering(), new_scheduler(8, max_step_tokens=64)
    first = ask(parser, tokenizer, PROMPT, max_tokens=30)
    answer(step, scheduler, [first])
    told = sink(first).tokens
    others = [ask(parser, tokenizer, [*PROMPT, *told, number]) for number in range(4)]
    answer(step, scheduler, others)
    longer = ask(parser, tokenizer, [*PROMPT, *told[:-1], 149, 3])  # another last token
    shorter = ask(parser, tokenizer, [*PROMPT, *told[:-2], 149, 3])
    salted = ask(parser, tokenizer, [*PROMPT, *told, 3], cache_salt=b"mine")
    answer(step, scheduler, [longer, shorter, salted])
    assert [*map(cached, [*others, longer, shorter, salted])] == [129] * 4 + [129, 128, 0]


def test_a_short_end_keeps_no_prompt_from_what_another_computes(
    parser: RequestParser, tokenizer: Tokenizer
) -> None:
    """All begin with three tokens that an ended one left, and the rest is computed once."""
    step, scheduler = Remembering(), new_scheduler(8, max_step_tokens=32)
    answer(step, scheduler, [ask(parser, tokenizer, PROMPT[:3], max_tokens=1)])
    computed = step.computed
    everyone = [ask(parser, tokenizer, [*PROMPT, number]) for number in range(8)]
    answer(step, scheduler, everyone)
    assert step.computed - computed < 2 * (100 + 8 * (5 + 4 + BLOCK_TOKENS))


def test_an_end_is_left_where_there_is_no_room_to_hold_it(
    parser: RequestParser, tokenizer: Tokenizer
) -> None:
    step, scheduler = Remembering(4), new_scheduler(2, max_step_tokens=64)
    answer(step, scheduler, [ask(parser, tokenizer, PROMPT[:10], max_tokens=1)])
    rest = 2 * BLOCK_TOKENS - 20 + 1
    whole = ask(parser, tokenizer, PROMPT[:20], max_tokens=rest)  # needs the pool as it is
    answer(step, scheduler, [whole])
    assert cached(whole) == 0


@pytest.mark.parametrize("is_stepped", [False, True], ids=["waiting", "fed"])
def test_an_end_is_free_again_when_its_reader_leaves(
    is_stepped: bool, parser: RequestParser, tokenizer: Tokenizer
) -> None:
    step, scheduler = Remembering(), new_scheduler(4, max_step_tokens=4)
    engine = new_engine(step, scheduler, 10)
    answer(step, scheduler, [ask(parser, tokenizer, PROMPT[:10], max_tokens=1)])
    long = ask(parser, tokenizer, range(100), max_tokens=2)
    going_on = ask(parser, tokenizer, [*PROMPT[:10], *range(30)], max_tokens=2)
    for one in (long, going_on):
        scheduler.admit(one)
    assert all(
        context.copied_from is not None for one in going_on.hypotheses for context in one.contexts
    )
    if is_stepped:
        engine.step()
    sink(going_on).cancelled = sink(long).cancelled = True
    while scheduler.running:
        engine.step()
    assert scheduler.memory.rooms == scheduler.memory.sizes
    assert scheduler.memory.usage.held == 0
    again = ask(parser, tokenizer, [*PROMPT[:10], *range(30)], max_tokens=2)
    answer(step, scheduler, [again])
    assert cached(again) >= 10


def test_a_whole_prompt_that_is_known_still_gives_a_token(
    parser: RequestParser, tokenizer: Tokenizer
) -> None:
    step, scheduler = Remembering(), new_scheduler(4, max_step_tokens=64)
    for length, known in ((32, 16), (33, 32), (34, 32)):
        prompt = range(200 + length, 200 + 2 * length)
        answer(step, scheduler, [ask(parser, tokenizer, prompt)])
        again = ask(parser, tokenizer, prompt)
        answer(step, scheduler, [again])
        assert cached(again) == known


@pytest.mark.parametrize("length", [10, 100])
def test_what_led_to_no_numbers_is_not_found_again(
    length: int, parser: RequestParser, tokenizer: Tokenizer
) -> None:
    class Broken(Remembering):
        is_broken = True

        def __call__(self, step: Step) -> StepResult:
            result = super().__call__(step)
            result.picks["token"][:] = NONE if self.is_broken else result.picks["token"]
            return result

    step, scheduler = Broken(), new_scheduler(4, max_step_tokens=64)
    engine = new_engine(step, scheduler, 10)
    bad = ask(parser, tokenizer, PROMPT[:length])
    engine.submit(bad)
    while not sink(bad).ends:
        engine.step()
    assert isinstance(sink(bad).error, StepError)
    step.is_broken = False
    good = ask(parser, tokenizer, [*PROMPT[:length], 7])
    answer(step, scheduler, [good])
    assert cached(good) == 0


def test_the_base_is_shared_by_all_adapters(parser: RequestParser, tokenizer: Tokenizer) -> None:
    step, scheduler = Remembering(), new_scheduler(4, max_step_tokens=64)
    answer(step, scheduler, [ask(parser, tokenizer, PROMPT, max_tokens=1)])
    computed = step.computed
    other = ask(parser, tokenizer, PROMPT, lora_name=b"b", max_tokens=1)
    answer(step, scheduler, [other])
    assert step.computed - computed == 100 + 4  # the expert's, and the base's last
    assert cached(other) == 0
    alone = ask(parser, tokenizer, PROMPT, decoding=b"base", max_tokens=1)
    answer(step, scheduler, [alone])
    assert cached(alone) == 96


@pytest.mark.parametrize(
    "other",
    [
        {"lora_name": b"b"},
        {"lora_scale": 0.5},
        {"cache_salt": b"mine"},
        {"cache_salt": b"mine", "decoding": b"greedy"},
    ],
    ids=str,
)
def test_what_differs_is_not_shared(
    other: dict[str, Any], parser: RequestParser, tokenizer: Tokenizer
) -> None:
    step, scheduler = Remembering(), new_scheduler(4, max_step_tokens=64)
    first = ask(parser, tokenizer, PROMPT)
    second = ask(parser, tokenizer, PROMPT, **other)
    third = ask(parser, tokenizer, PROMPT, **other)
    answer(step, scheduler, [first])
    answer(step, scheduler, [second])
    answer(step, scheduler, [third])
    assert [*map(cached, (first, second, third))] == [0, 0, 96]


def test_a_strength_of_zero_is_the_base(parser: RequestParser, tokenizer: Tokenizer) -> None:
    step, scheduler = Remembering(), new_scheduler(4, max_step_tokens=64)
    answer(step, scheduler, [ask(parser, tokenizer, PROMPT, decoding=b"base")])
    for name in (b"a", b"b"):
        one = ask(parser, tokenizer, PROMPT, lora_name=name, lora_scale=0.0)
        answer(step, scheduler, [one])
        assert cached(one) == 96


def test_a_new_version_of_an_adapter_meets_nothing_of_the_old_one(
    parser: RequestParser, tokenizer: Tokenizer
) -> None:
    class Loading(Remembering):
        def __call__(self, step: Step) -> StepResult:
            changes = unpack_changes(step.adapters)
            reports = pack_reports(AdapterReport(c.index, c.name, c.stamp) for c in changes)
            return replace(super().__call__(step), loads=reports)

    step, scheduler = Loading(), new_scheduler(4, AdapterSlots(["a"], 2), max_step_tokens=64)
    found = []
    for stamp in ((1,), (1,), (2,), (1,), (2,)):
        one = ask(parser, tokenizer, PROMPT, decoding=b"greedy", lora_name=b"x")
        one.adapters = (ServedAdapter("x", "/x", stamp),)
        answer(step, scheduler, [one])
        found.append(cached(one))
    assert found == [0, 96, 0, 96, 96]


def test_without_reuse_nothing_is_shared(parser: RequestParser, tokenizer: Tokenizer) -> None:
    step, scheduler = Remembering(), new_scheduler(4, max_step_tokens=64, reuse=False)
    for _ in range(2):
        one = ask(parser, tokenizer, PROMPT)
        answer(step, scheduler, [one])
        assert cached(one) == 0
    assert scheduler.memory.usage.kept == 0


def test_prompts_that_come_together_are_computed_once(
    parser: RequestParser, tokenizer: Tokenizer
) -> None:
    step, scheduler = Remembering(), new_scheduler(8, max_step_tokens=32)
    everyone = [
        ask(parser, tokenizer, [*PROMPT, number], lora_name=(b"a", b"b")[number % 2])
        for number in range(8)
    ]
    answer(step, scheduler, everyone)
    once = 100 + 2 * 100  # the base, and each adapter
    assert step.computed < once + 8 * 2 * (5 + 4 + BLOCK_TOKENS)


def test_a_long_prompt_keeps_no_short_one_waiting(
    parser: RequestParser, tokenizer: Tokenizer
) -> None:
    step, scheduler = Remembering(), new_scheduler(4, max_step_tokens=16)
    long = ask(parser, tokenizer, range(1000, 1300), max_tokens=2)
    short = [ask(parser, tokenizer, range(2000 + n, 2008 + n), max_tokens=2) for n in range(3)]
    answer(step, scheduler, [long, *short])
    firsts = [one.first_token_s or 0.0 for one in (*short, long)]
    assert firsts == sorted(firsts)
    assert len(step.steps) < 25  # and the long one had half of the steps meanwhile


def test_what_fits_runs_and_the_rest_waits(parser: RequestParser, tokenizer: Tokenizer) -> None:
    """64 tokens each, at both readers: 8 blocks; a pool of 40 holds five of them."""
    step, scheduler = Remembering(40), new_scheduler(64, max_step_tokens=64)
    engine = new_engine(step, scheduler, 100)
    everyone = [ask(parser, tokenizer, [n] * 60, max_tokens=5) for n in range(3, 15)]
    for one in everyone:
        engine.submit(one)
    engine.step()
    assert len(scheduler.running) == 5
    run_all(engine, everyone)
    assert all(sink(one).tokens == expected(one) for one in everyone)


def test_short_requests_take_what_they_need(parser: RequestParser, tokenizer: Tokenizer) -> None:
    """Where 16 whole contexts were reserved, requests of an eighth run six times as many."""
    step = Remembering(16 * 2 * SETTINGS.max_context // BLOCK_TOKENS)
    scheduler = new_scheduler(256, max_step_tokens=256)
    engine = new_engine(step, scheduler, 300)
    everyone = [
        ask(parser, tokenizer, [number] * 40, max_tokens=SETTINGS.max_context // 8 - 40)
        for number in range(3, 147)
    ]
    for one in everyone:
        engine.submit(one)
    engine.step()
    assert len(scheduler.running) >= 6 * 16


def test_what_is_shared_takes_no_room_twice(parser: RequestParser, tokenizer: Tokenizer) -> None:
    step, scheduler = Remembering(40), new_scheduler(64, max_step_tokens=256)
    engine = new_engine(step, scheduler, 100)
    first = ask(parser, tokenizer, PROMPT, max_tokens=12)  # 7 blocks at each reader
    engine.submit(first)
    engine.step()
    others = [ask(parser, tokenizer, PROMPT, max_tokens=12) for _ in range(13)]
    for one in others:
        engine.submit(one)
    engine.step()
    assert len(scheduler.running) == 1 + 13  # each has one block of its own at each reader
    run_all(engine, [first, *others])


def test_beams_that_no_pool_could_hold_are_refused(
    parser: RequestParser, tokenizer: Tokenizer
) -> None:
    step, scheduler = Remembering(40), new_scheduler(8, max_step_tokens=64)
    engine = new_engine(step, scheduler, 100)
    wide = {"decoding": b"beam", "beam_width": 8, "max_tokens": 100}
    before = ask(parser, tokenizer, PROMPT, **wide)  # while nobody knows how many there are
    small = ask(parser, tokenizer, PROMPT)
    for one in (before, small):
        engine.submit(one)
    run_all(engine, [before, small])
    assert isinstance(sink(before).error, InvalidRequestError)
    assert "beam_width" in str(sink(before).error)
    assert sink(small).tokens == expected(small)
    with pytest.raises(InvalidRequestError, match="beam_width"):
        new_engine(step, scheduler, 100).submit(ask(parser, tokenizer, PROMPT, **wide))


@pytest.mark.parametrize("base_blocks", [0, 33], ids=["one pool", "two pools"])
def test_a_random_run_where_eviction_never_stops(
    base_blocks: int, parser: RequestParser, tokenizer: Tokenizer
) -> None:
    chance = random.Random(5)
    step = Remembering(40, base_blocks)
    scheduler = new_scheduler(8, max_step_tokens=48)
    prefixes = [[chance.randrange(3, 149) for _ in range(120)] for _ in range(6)]
    everyone = []
    for _ in range(2000):
        prompt = chance.choice(prefixes)[: chance.randrange(1, 120)]
        prompt = prompt + [chance.randrange(3, 149) for _ in range(chance.randrange(0, 20))]
        everyone.append(
            ask(
                parser,
                tokenizer,
                prompt,
                max_tokens=chance.randrange(1, 24),
                lora_name=chance.choice([b"a", b"b"]),
                lora_scale=chance.choice([0.0, 0.5, 1.0, 1.0]),
                decoding=chance.choice([b"cold", b"greedy", b"base"]),
                cache_salt=chance.choice([b"", b"", b"x"]),
            )
        )
    for first in range(0, len(everyone), 100):
        answer(step, scheduler, everyone[first : first + 100])
    usage = scheduler.memory.usage
    assert usage.evictions > 2000
    assert usage.reused_tokens > 10_000


def test_beams_share_all_but_the_last_block(parser: RequestParser, tokenizer: Tokenizer) -> None:
    """As many blocks as the prompt needs once, and each beam's own."""
    step, scheduler = RandomModel(), new_scheduler(8, max_step_tokens=256)
    engine = new_engine(step, scheduler, 10)
    wide = ask(parser, tokenizer, PROMPT, decoding=b"beam", beam_width=4, max_tokens=60)
    engine.submit(wide)
    for _ in range(20):
        engine.step()
    held = {block for one in wide.hypotheses for block in one.contexts[0].blocks}
    assert scheduler.memory.usage.held == len(held) <= 6 + 4 * 2
    assert scheduler.free[1] >= 4096 - (6 + 4 * 4)
    copied = [len(one.copies) for one in step.steps]
    assert copied[0] == 0 and max(copied) == 3
    run_all(engine, [wide])
    assert scheduler.memory.rooms == scheduler.memory.sizes


def test_the_least_recently_used_goes_first() -> None:
    pool = BlockPool(3)
    pool.promise(3)
    blocks = [pool.take() for _ in range(3)]
    for number, block in enumerate(blocks):
        pool.keep(block, bytes([number]))
    pool.release(blocks[1:])  # the beginning of this context is used last
    pool.release(blocks[:1])
    pool.promise(1)
    assert pool.take() == blocks[2]
    assert pool.find(bytes([2])) is None
    assert pool.find(bytes([1])) == blocks[1]
    assert (pool.held, pool.kept, pool.evictions, pool.room) == (1, 2, 1, 2)


def test_memory_tells_nothing_before_the_models_do() -> None:
    memory = Memory(reuse=True)
    assert not memory.is_open
    assert (memory.rooms, memory.usage.blocks) == ((), 0)
    sizes = {"expert_blocks": np.array([5]), "base_blocks": np.array([3])}
    empty = np.empty(0, np.void)
    memory.open(StepResult(empty, empty, **sizes))
    assert memory.sizes == (5, 3)
    assert {Reader.EXPERT, Reader.BASE} == set(memory._pools)
