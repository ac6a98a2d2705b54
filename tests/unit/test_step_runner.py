"""A step that fails: the request that makes it fail ends, and the others notice nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cold_backend.adapters.served import ServedAdapter
from cold_backend.contract import (
    AdapterReport,
    Reader,
    Step,
    StepResult,
    pack_reports,
    unpack_changes,
)
from cold_backend.decoding.execution import FusedExecution
from cold_backend.engine.adapter_slots import AdapterSlots
from cold_backend.errors import StepError
from cold_backend.requests.parser import RequestParser
from cold_backend.requests.sequence import Sequence
from cold_backend.text.tokenizer import Tokenizer
from cold_kernels import load_ops
from tests.fakes import (
    CountingStep,
    RandomModel,
    asks_only,
    new_engine,
    new_scheduler,
    run_all,
    sequence,
    sink,
)
from tests.families import make_adapter, make_model
from tests.unit.test_language_model import CPU, packed

BAD = 149  # a token that no step survives
Execute = Callable[[Step], StepResult]


class Fragile:
    """Executes steps, but none that feeds a certain token."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute
        self.steps: list[Step] = []

    def __call__(self, step: Step) -> StepResult:
        if not asks_only(step):
            self.steps.append(step)
        result = self._execute(step)  # so that all it writes has been written
        if BAD in step.tokens:
            raise RuntimeError("a secret")
        return result


def answers(
    execute: Execute, sequences: list[Sequence], slots: int = 16, *, max_step_tokens: int = 512
) -> list[list[int] | None]:
    """The tokens of each; None if it failed."""
    scheduler = new_scheduler(slots, max_step_tokens=max_step_tokens)
    engine = new_engine(execute, scheduler, 100)
    for one in sequences:
        engine.submit(one)
    run_all(engine, sequences)
    assert scheduler.free[0] == slots
    if scheduler.memory.is_open:
        assert scheduler.memory.rooms == scheduler.memory.sizes
    assert not scheduler.running
    for one in sequences:
        assert sink(one).error is None or isinstance(sink(one).error, StepError)
        assert "secret" not in str(sink(one).error)
    return [None if sink(one).error else sink(one).tokens for one in sequences]


@pytest.mark.parametrize(
    "bad", [(0,), (5,), (15,), (3, 4), (0, 7, 15), range(16), ()], ids=lambda bad: f"{[*bad]}"
)
def test_the_requests_that_fail_are_found(
    bad: Collection[int], parser: RequestParser, tokenizer: Tokenizer
) -> None:
    step = Fragile(CountingStep())
    sequences = [
        sequence(parser, tokenizer, max_tokens=3, input_ids=[5, BAD if n in bad else 6, 7])
        for n in range(16)
    ]
    found = answers(step, sequences)
    assert found == [None if n in bad else [100, 101, 102] for n in range(16)]
    assert len(step.steps) <= 3 + 2 * len(bad) * 4 + 1


def test_a_failure_that_passes_ends_nobody(parser: RequestParser, tokenizer: Tokenizer) -> None:
    step = CountingStep()

    def fail_once() -> None:
        step.before = lambda: None
        raise RuntimeError("out of memory")

    step.before = fail_once
    sequences = [sequence(parser, tokenizer, max_tokens=2) for _ in range(5)]
    assert answers(step, sequences) == [[100, 101]] * 5


def test_where_nothing_works_the_search_ends(parser: RequestParser, tokenizer: Tokenizer) -> None:
    tries = 0

    def broken(step: Step) -> StepResult:
        nonlocal tries
        tries += 1
        raise StepError("the process is gone")

    sequences = [sequence(parser, tokenizer) for _ in range(100)]
    assert answers(broken, sequences, slots=100) == [None] * 100
    assert tries < 60


def test_what_no_step_can_be_made_of_ends_alone(
    parser: RequestParser, tokenizer: Tokenizer
) -> None:
    sequences = [sequence(parser, tokenizer, max_tokens=2) for _ in range(4)]
    sequences[2].answer.tokens[1] = 1 << 70
    assert answers(CountingStep(), sequences) == [[100, 101], [100, 101], None, [100, 101]]


def test_too_few_tokens_are_a_failure(parser: RequestParser, tokenizer: Tokenizer) -> None:
    def short(step: Step) -> StepResult:
        result = CountingStep()(step)
        return replace(result, picks=result.picks[1:])

    assert answers(short, [sequence(parser, tokenizer) for _ in range(2)]) == [None, None]


def test_a_token_without_text_ends_its_request_alone(
    parser: RequestParser, tokenizer: Tokenizer
) -> None:
    """A tokenizer that cannot decode what the model picked."""

    def refuse(token: int) -> str:
        raise IndexError("piece id is out of range")

    sequences = [sequence(parser, tokenizer, max_tokens=2) for _ in range(3)]
    sequences[1].answer.detokenizer.push = refuse  # type: ignore[method-assign]
    assert answers(CountingStep(), sequences) == [[100, 101], None, [100, 101]]


def test_adapters_are_loaded_again(parser: RequestParser, tokenizer: Tokenizer) -> None:
    """Nobody knows what the models hold after a failed step."""

    def loading(step: Step) -> StepResult:
        reports = (AdapterReport(c.index, c.name, c.stamp) for c in unpack_changes(step.adapters))
        return replace(CountingStep()(step), loads=pack_reports(reports))

    slots = AdapterSlots(["a"], 4)
    step = Fragile(loading)
    engine = new_engine(step, new_scheduler(4, slots), 10)
    sequences = [
        sequence(parser, tokenizer, max_tokens=2, input_ids=[5, token], lora_name=name)
        for name, token in ((b"x", 6), (b"y", BAD), (b"z", 7))
    ]
    for one in sequences:
        (adapter,) = one.adapters
        one.adapters = (ServedAdapter(adapter.name, f"/{adapter.name}"),)
        engine.submit(one)
    run_all(engine, sequences)
    loaded = [{c.name for c in unpack_changes(s.adapters)} for s in step.steps]
    assert loaded[0] == {"x", "y", "z"}
    for n, failed in enumerate(step.steps[:-1]):
        assert loaded[n + 1] == ({"x", "y", "z"} if BAD in failed.tokens else set())
    assert slots.is_ready(*sequences[0].adapters)
    assert [sink(one).error is None for one in sequences] == [True, False, True]


def test_beams_belong_together(parser: RequestParser, tokenizer: Tokenizer) -> None:
    """One search fails in its midst; two others, and a greedy request, find what they would."""

    def wanted(first: int) -> list[Sequence]:
        beams = [
            sequence(
                parser,
                tokenizer,
                input_ids=[start, 5],
                decoding=b"beam",
                beam_width=width,
                max_tokens=9,
                ignore_eos=True,
            )
            for start, width in ((4, 3), (first, 4), (6, 5))
        ]
        return [*beams, sequence(parser, tokenizer, max_tokens=20)]

    class Breaking(RandomModel):
        def __call__(self, step: Step) -> StepResult:
            result = super().__call__(step)
            if any(ids[0] == BAD and len(ids) > 6 for ids in self.held):
                raise RuntimeError("a secret")
            return result

    whole = answers(RandomModel(), wanted(BAD), slots=14)
    assert answers(Breaking(), wanted(BAD), slots=14) == [whole[0], None, *whole[2:]]
    assert None not in whole


def test_the_models_get_over_a_failure(
    parser: RequestParser, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """The real fused execution, which has written keys and values when it fails."""
    base = make_model("llama", tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter")
    ids: dict[str, Any] = {"input_ids": np.arange(20, 40), "max_tokens": 12}

    def execution() -> Execute:
        model = packed(base, {"a": adapter}, (Reader.EXPERT, Reader.BASE))
        return FusedExecution(model, load_ops("native", CPU)).execute

    def requests(last: int) -> list[Sequence]:
        return [
            sequence(parser, tokenizer, **ids),
            sequence(parser, tokenizer, **ids | {"input_ids": [*range(50, 61), last]}),
            sequence(parser, tokenizer, decoding=b"cold_beam", beam_width=2, **ids),
        ]

    whole = answers(execution(), requests(BAD), 4, max_step_tokens=8)
    step = Fragile(execution())
    assert answers(step, requests(BAD), 4, max_step_tokens=8) == [whole[0], None, whole[2]]
    assert any(BAD in one.tokens and len(one.rows) > 1 for one in step.steps)
    assert all(whole)
