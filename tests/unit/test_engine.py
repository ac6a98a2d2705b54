"""The engine with a step that counts: every request ends exactly once, whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cold_backend.adapters.served import ServedAdapter
from cold_backend.config import Settings
from cold_backend.contract import (
    LogProb,
    Option,
    OptionScore,
    Pick,
    Row,
    Step,
    StepResult,
    emitting,
)
from cold_backend.engine.adapter_slots import AdapterSlots
from cold_backend.engine.admission import Admission
from cold_backend.engine.engine import Engine
from cold_backend.engine.scheduler import Chunk, Scheduler
from cold_backend.errors import ColdError, OverloadedError, ShuttingDownError
from cold_backend.requests.request import RequestParser
from cold_backend.requests.sequence import FinishReason, Piece, Sequence
from cold_backend.telemetry.telemetry import Telemetry
from cold_backend.text.tokenizer import Tokenizer

NO_OPTIONS = np.empty((0, len(Option)), np.int64), np.empty((0, len(OptionScore)), np.float32)


class Sink:
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.error: ColdError | None = None
        self.ends = 0
        self.cancelled = False
        self.done = threading.Event()

    def send(self, piece: Piece) -> None:
        assert not self.ends
        self.pieces.append(piece)
        if piece.finish_reason:
            self._end()

    def fail(self, error: ColdError) -> None:
        assert not self.ends
        self.error = error
        self._end()

    def is_cancelled(self) -> bool:
        return self.cancelled

    @property
    def tokens(self) -> list[int]:
        return [token.id for piece in self.pieces for token in piece.tokens]

    def _end(self) -> None:
        self.ends += 1
        self.done.set()


class CountingStep:
    """Picks 100, 101, … for each slot and keeps the steps that it was given."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.before: Callable[[], None] = lambda: None

    def __call__(self, step: Step) -> StepResult:
        self.before()
        self.steps.append(step)
        rows = step.rows[emitting(step.rows)]
        picks = np.zeros((len(rows), len(Pick)), np.int64)
        picks[:, Pick.TOKEN] = 100 + step.draws[:, 3]
        return StepResult(picks, np.zeros((len(rows), len(LogProb)), np.float32), *NO_OPTIONS)


@pytest.fixture
def parser(tokenizer: Tokenizer) -> RequestParser:
    return RequestParser(Settings(base_model="m", adapters={"a": "p"}, max_context=512), tokenizer)


def new_scheduler(
    max_sequences: int, adapters: AdapterSlots | None = None, *, max_step_tokens: int = 8
) -> Scheduler:
    return Scheduler(max_sequences, max_step_tokens, adapters or AdapterSlots(["a", "b"]))


def new_engine(
    step: Callable[[Step], StepResult],
    scheduler: Scheduler,
    max_queue: int,
    *,
    max_wait_s: float = 60,
) -> Engine:
    telemetry = Telemetry(Settings(base_model="m", adapters={"a": "p"}))
    return Engine(step, scheduler, Admission(max_queue, max_wait_s), telemetry)


def sequence(parser: RequestParser, tokenizer: Tokenizer, **inputs: Any) -> Sequence:
    arrays = {"input_ids": np.arange(5, 10)} | {k: np.array([v]) for k, v in inputs.items()}
    arrays["input_ids"] = arrays["input_ids"].reshape(-1)
    return Sequence(parser.parse(arrays), Sink(), tokenizer)


def sink(one: Sequence) -> Sink:
    assert isinstance(one.sink, Sink)
    return one.sink


def run_all(engine: Engine, sequences: list[Sequence]) -> None:
    thread = threading.Thread(target=engine.run)
    thread.start()
    for one in sequences:
        assert sink(one).done.wait(20)
    engine.close()
    thread.join(20)
    assert not thread.is_alive()


def test_more_requests_than_slots_all_finish(parser: RequestParser, tokenizer: Tokenizer) -> None:
    step = CountingStep()
    scheduler = new_scheduler(3)
    engine = new_engine(step, scheduler, 50)
    sequences = [sequence(parser, tokenizer, max_tokens=n % 7 + 1) for n in range(20)]
    for one in sequences:
        engine.submit(one)
    run_all(engine, sequences)
    for n, one in enumerate(sequences):
        assert sink(one).tokens == list(range(100, 101 + n % 7))
        assert sink(one).pieces[-1].finish_reason is FinishReason.LENGTH
    assert not scheduler.running
    assert max(s.rows[:, Row.LENGTH].sum() for s in step.steps) <= 8
    assert all(len(set(s.rows[:, Row.SLOT])) == len(s.rows) <= 3 for s in step.steps)


def test_a_long_prompt_is_fed_in_chunks_beside_running_sequences(
    parser: RequestParser, tokenizer: Tokenizer
) -> None:
    step = CountingStep()
    engine = new_engine(step, new_scheduler(2), 5)
    short = sequence(parser, tokenizer, max_tokens=10)
    long = Sequence(
        parser.parse({"input_ids": np.arange(3, 33), "max_tokens": np.array([2])}),
        Sink(),
        tokenizer,
    )
    engine.submit(short)
    engine.submit(long)
    run_all(engine, [short, long])
    fed = [s.tokens[-1] for s in step.steps if len(s.rows) == 2 and s.rows[1, Row.LENGTH] > 1]
    assert len(fed) >= 4
    assert all(step_.rows[0, Row.LENGTH] == 1 for step_ in step.steps[1:10])
    assert sink(long).tokens == [100, 101]


def test_cancelled_requests_end_at_once_running_and_waiting(
    parser: RequestParser, tokenizer: Tokenizer
) -> None:
    step = CountingStep()
    engine = new_engine(step, new_scheduler(1), 5)
    running, waiting, other = (sequence(parser, tokenizer, max_tokens=n) for n in (500, 500, 3))
    for one in (running, waiting, other):
        engine.submit(one)

    def cancel() -> None:
        if len(step.steps) == 3:
            sink(running).cancelled = sink(waiting).cancelled = True
            engine._next_check_s = 0.0

    step.before = cancel
    run_all(engine, [running, waiting, other])
    assert sink(running).pieces[-1].finish_reason is FinishReason.CANCELLED
    assert len(sink(running).tokens) < 10
    assert sink(waiting).error is not None
    assert sink(other).tokens == [100, 101, 102]


def test_many_threads_submit_at_once(parser: RequestParser, tokenizer: Tokenizer) -> None:
    """While others look at the load, announce what never comes, and cancel."""
    scheduler = new_scheduler(4)
    engine = new_engine(CountingStep(), scheduler, 1000)
    engine_thread = threading.Thread(target=engine.run)
    engine_thread.start()
    given: list[list[Sequence]] = [[] for _ in range(12)]
    errors: list[BaseException] = []

    def submit(mine: list[Sequence], first: int) -> None:
        try:
            for number in range(25):
                one = sequence(parser, tokenizer, max_tokens=(first + number) % 5 + 1)
                engine.announce(one)
                if number % 6 == 5:
                    engine.withdraw()
                    continue
                engine.enter(one)
                mine.append(one)
                sink(one).cancelled = number % 7 == 6
                engine.load()
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=submit, args=(mine, first)) for first, mine in enumerate(given)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    engine.drain()
    engine_thread.join(60)
    assert not engine_thread.is_alive()
    assert not errors
    everything = [one for mine in given for one in mine]
    assert len(everything) == 12 * 21
    for one in everything:
        assert sink(one).ends == 1
        if not sink(one).cancelled:
            assert sink(one).tokens == list(range(100, 100 + one.request.max_tokens))
    assert (engine.load().running, engine.load().waiting) == (0, 0)
    assert scheduler.free == 4


def test_a_fault_of_the_engine_ends_what_it_has_and_no_more(
    parser: RequestParser, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = new_scheduler(1)
    engine = new_engine(CountingStep(), scheduler, 5)
    running, waiting = sequence(parser, tokenizer, max_tokens=400), sequence(parser, tokenizer)
    plan = scheduler.plan

    def fail_once() -> list[Chunk]:
        monkeypatch.setattr(scheduler, "plan", plan)
        raise RuntimeError("a secret")

    monkeypatch.setattr(scheduler, "plan", fail_once)
    for one in (running, waiting):
        engine.submit(one)
    thread = threading.Thread(target=engine.run)
    thread.start()
    for one in (running, waiting):
        assert sink(one).done.wait(20)
        assert str(sink(one).error) == "the decoding step failed"
    next_one = sequence(parser, tokenizer, max_tokens=2)
    engine.submit(next_one)
    assert sink(next_one).done.wait(20)
    assert sink(next_one).tokens == [100, 101]
    engine.close()
    thread.join(20)
    assert not thread.is_alive()


def test_logits_that_are_no_numbers_end_their_request_by_the_adapters_name(
    parser: RequestParser, tokenizer: Tokenizer
) -> None:
    class BrokenForOne(CountingStep):
        def __call__(self, step: Step) -> StepResult:
            result = super().__call__(step)
            result.picks[step.rows[emitting(step.rows)][:, Row.ADAPTER] == 0, Pick.TOKEN] = -1
            return result

    engine = new_engine(BrokenForOne(), new_scheduler(2), 5)
    bad, good = sequence(parser, tokenizer), sequence(parser, tokenizer, max_tokens=2)
    good.adapter = ServedAdapter("b")
    for one in (bad, good):
        engine.submit(one)
    run_all(engine, [bad, good])
    assert str(sink(bad).error) == "the model's logits with adapter a were not finite"
    assert sink(good).tokens == [100, 101]


def test_full_queue_and_shutdown_are_refused(parser: RequestParser, tokenizer: Tokenizer) -> None:
    engine = new_engine(CountingStep(), new_scheduler(1), 2)
    kept = [sequence(parser, tokenizer) for _ in range(2)]
    for one in kept:
        engine.submit(one)
    with pytest.raises(OverloadedError, match="2 requests"):
        engine.submit(sequence(parser, tokenizer))
    engine.close()
    with pytest.raises(ShuttingDownError):
        engine.submit(sequence(parser, tokenizer))
    engine.run()
    assert all(isinstance(sink(one).error, ShuttingDownError) for one in kept)
    assert all(sink(one).ends == 1 for one in kept)
