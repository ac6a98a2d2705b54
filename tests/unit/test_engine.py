"""The engine with a step that counts: every request ends exactly once, whatever happens."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from cold_backend.contract import NONE, Reader, Step, StepResult
from cold_backend.engine.scheduler import Chunk
from cold_backend.errors import OverloadedError, ShuttingDownError
from cold_backend.requests.answer import FinishReason
from cold_backend.requests.parser import RequestParser
from cold_backend.requests.sequence import Sequence
from cold_backend.text.tokenizer import Tokenizer
from tests.fakes import CountingStep, Sink, new_engine, new_scheduler, run_all, sequence, sink


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
    for one_step in step.steps:
        for reader in Reader:
            mine = one_step.rows[one_step.rows["reader"] == reader]
            assert mine["length"].sum() <= 8
            assert len(mine) <= 3


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
    of_expert = [s.rows[s.rows["reader"] == Reader.EXPERT] for s in step.steps]
    assert sum(len(mine) == 2 and mine["length"][1] > 1 for mine in of_expert) >= 4
    assert all(mine["length"][0] == 1 for mine in of_expert[1:10])
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
    assert scheduler.free == (4, 4096)


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
            of_adapter = step.rows["adapters"][step.choices["expert"], 0] == 0
            result.picks["token"][of_adapter] = NONE
            return result

    engine = new_engine(BrokenForOne(), new_scheduler(2), 5)
    bad = sequence(parser, tokenizer)
    good = sequence(parser, tokenizer, max_tokens=2, lora_name=b"b")
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
