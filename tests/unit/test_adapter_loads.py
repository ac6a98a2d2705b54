"""Adapters on their way into a running model: in pieces, reported once, none left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest

from cold_backend.adapters.adapter import Adapter
from cold_backend.adapters.files import Stamp
from cold_backend.adapters.reader_pool import ReadersBusyError, ReadTimeoutError
from cold_backend.adapters.served import ServedAdapter
from cold_backend.adapters.store import AdapterStore
from cold_backend.contract import (
    AdapterChange,
    AdapterReport,
    Reader,
    Step,
    StepResult,
    pack_reports,
    unpack_changes,
)
from cold_backend.engine.adapter_slots import AdapterSlots
from cold_backend.engine.engine import Engine
from cold_backend.errors import (
    AdapterUnreadableError,
    ColdError,
    ConfigError,
    DeadlineError,
    InvalidRequestError,
    RequestCancelledError,
    StepError,
)
from cold_backend.models.adapter_loads import AdapterLoads
from cold_backend.requests.answer import FinishReason
from cold_backend.requests.parser import RequestParser
from cold_backend.requests.sequence import Sequence
from cold_backend.text.tokenizer import Tokenizer
from tests.fakes import CountingStep, asks_only, new_engine, new_scheduler, sequence, sink

PIECES = 5


class Store(AdapterStore):
    """Gives what a test says, when it says so."""

    def __init__(self) -> None:
        self.reads: list[Future[Adapter]] = []
        self.busy: Exception | None = None

    def take(self, name: str, path: str, stamp: Stamp) -> Future[Adapter]:
        if self.busy:
            raise self.busy
        self.reads.append(Future())
        return self.reads[-1]


class Places:
    """Where adapters are put."""

    def __init__(self) -> None:
        self.puts: list[int] = []
        self.error: Exception | None = None

    def put(self, index: int, adapter: Adapter) -> Iterator[None]:
        for _ in range(PIECES):
            if self.error:
                raise self.error
            self.puts.append(index)
            yield


def change(index: int, name: str) -> AdapterChange:
    return AdapterChange(index, name, f"/{name}", (1,))


def ended(index: int, name: str, problem: str = "", *, passing: bool = False) -> AdapterReport:
    return AdapterReport(index, name, (1,), problem, passing)


def test_a_piece_a_step_until_all_is_there() -> None:
    store, places = Store(), Places()
    loads = AdapterLoads(places.put, store)
    loads.announce([change(1, "a"), change(2, "b")])
    assert loads.advance(0) == []
    store.reads[1].set_result(Adapter("b", {}, {}))
    found = []
    for step in range(1, PIECES + 2):
        found += loads.advance(0)
        assert places.puts == [2] * min(step, PIECES)
    assert found == [ended(2, "b")]
    store.reads[0].set_result(Adapter("a", {}, {}))
    assert loads.advance(60) == [ended(1, "a")]
    assert places.puts == [2] * PIECES + [1] * PIECES
    assert loads.advance(60) == []


def test_what_is_there_is_reported_again_and_not_loaded_again() -> None:
    store, places = Store(), Places()
    loads = AdapterLoads(places.put, store)
    loads.announce([change(1, "a")])
    loads.announce([change(1, "a")])  # as after a step that failed
    (read,) = store.reads
    read.set_result(Adapter("a", {}, {}))
    assert loads.advance(60) == [ended(1, "a")]
    loads.announce([change(1, "a")])
    assert loads.advance(0) == [ended(1, "a")]
    assert len(store.reads) == 1
    loads.announce([change(1, "b")])
    loads.announce([change(1, "a")])
    assert len(store.reads) == 3
    store.reads[1].set_result(Adapter("b", {}, {}))
    assert loads.advance(60) == []
    store.reads[2].set_result(Adapter("a", {}, {}))
    assert loads.advance(60) == [ended(1, "a")]


_BUSY = ReadersBusyError("all hang"), "cannot be read now: all hang", True
_BROKEN = ConfigError("adapter a: is broken"), "adapter a: is broken", False
_ERRORS = [
    *(_BUSY, _BROKEN, (AdapterUnreadableError("a", "changed"), "changed", True)),
    (ReadTimeoutError(), "was not read within 30 s", True),
    (RuntimeError("/a/secret"), "could not be loaded", True),
]


@pytest.mark.parametrize(
    ("when", "error", "problem", "passing"),
    [
        *(("asked", *error) for error in (_BUSY, _BROKEN)),
        *((when, *error) for when in ("read", "put") for error in _ERRORS),
    ],
)
def test_what_fails_is_reported_once_and_tried_again(
    when: str, error: Exception, problem: str, passing: bool
) -> None:
    store, places = Store(), Places()
    loads = AdapterLoads(places.put, store)
    store.busy = error if when == "asked" else None
    places.error = error if when == "put" else None
    loads.announce([change(1, "a")])
    for read in store.reads:
        read.set_exception(error) if when == "read" else read.set_result(Adapter("a", {}, {}))
    assert loads.advance(60) == [ended(1, "a", problem, passing=passing)]
    assert loads.advance(60) == []
    store.busy = places.error = None
    loads.announce([change(1, "a")])
    store.reads[-1].set_result(Adapter("a", {}, {}))
    assert loads.advance(60) == [ended(1, "a")]


def test_a_step_for_loading_alone_waits_for_a_read() -> None:
    store = Store()
    loads = AdapterLoads(Places().put, store)
    loads.announce([change(1, "a")])
    threading.Timer(0.1, store.reads[0].set_result, [Adapter("a", {}, {})]).start()
    assert loads.advance(0.01, patience_s=20) == [ended(1, "a")]


class LoadingStep(CountingStep):
    """Reports of an adapter what a test says, when it says so."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[AdapterChange] = []
        self.reports: list[AdapterReport] = []
        self.fails_in: int | None = None  # so many steps with rows still go well
        self.reports_at_once = False

    def __call__(self, step: Step) -> StepResult:
        changes = unpack_changes(step.adapters)
        self.changes += changes
        if self.reports_at_once:
            self.reports += [AdapterReport(of.index, of.name, of.stamp) for of in changes]
        if self.fails_in == 0 and not asks_only(step):
            self.fails_in = None
            raise RuntimeError("a secret")
        if not len(step.rows):
            time.sleep(0.001)
        elif self.fails_in:
            self.fails_in -= 1
        result = super().__call__(step)
        reports, self.reports = self.reports, []
        return replace(result, loads=pack_reports(reports))

    def report(self, name: str, problem: str = "", *, passing: bool = False) -> None:
        """On the newest change of that name."""
        (*_, of) = (change for change in self.changes if change.name == name)
        self.reports = [AdapterReport(of.index, of.name, of.stamp, problem, passing)]


class Running:
    """An engine with room for three sequences and adapters, one of them fixed."""

    def __init__(self, parser: RequestParser, tokenizer: Tokenizer) -> None:
        self.step = LoadingStep()
        self.slots = AdapterSlots(["a"], 3)
        self.engine: Engine = new_engine(self.step, new_scheduler(3, self.slots), 50, max_wait_s=20)
        self._parser, self._tokenizer = parser, tokenizer
        self._thread = threading.Thread(target=self.engine.run)
        self._thread.start()

    def ask(self, name: str = "", **inputs: object) -> Sequence:
        if name:
            inputs["lora_name"] = name.encode()
        one = sequence(self._parser, self._tokenizer, **({"max_tokens": 3} | inputs))
        if name:
            one.adapters = (ServedAdapter(name, f"/{name}", (1,)),)
        self.engine.submit(one)
        return one

    def ask_for(self, names: tuple[str, ...], *, submits: bool = True) -> Sequence:
        """With several adapters at once."""
        named = np.array([name.encode() for name in names], object)
        one = sequence(self._parser, self._tokenizer, max_tokens=3, lora_names=named)
        one.adapters = tuple(ServedAdapter(name, f"/{name}", (1,)) for name in names)
        if submits:
            self.engine.submit(one)
        return one

    def wait_for(self, name: str, times: int = 1) -> None:
        """Until the models have been told of an adapter."""
        end_s = time.monotonic() + 20
        while [change.name for change in self.step.changes].count(name) < times:
            assert time.monotonic() < end_s
            time.sleep(0.001)

    def close(self) -> None:
        self.engine.close()
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def running(parser: RequestParser, tokenizer: Tokenizer) -> Iterator[Running]:
    running = Running(parser, tokenizer)
    yield running
    running.close()


def error_of(one: Sequence) -> ColdError:
    assert sink(one).done.wait(20)
    error = sink(one).error
    assert error is not None
    return error


def test_others_run_while_an_adapter_is_loaded(running: Running) -> None:
    slow = [running.ask("slow") for _ in range(5)]
    running.wait_for("slow")
    for _ in range(3):
        assert sink(running.ask()).done.wait(20)
    assert not any(sink(one).done.is_set() for one in slow)
    assert not any(one.is_running for one in slow)
    running.step.report("slow")
    for one in slow:
        assert sink(one).done.wait(20)
        assert sink(one).pieces[-1].finish_reason is FinishReason.LENGTH
    index = running.step.changes[0].index
    used = {
        int(row["adapters"][0])
        for step in running.step.steps
        for row in step.rows
        if row["reader"] == Reader.EXPERT
    }
    assert used == {0, index}
    assert len(running.step.changes) == 1


def test_deadlines_and_cancels_are_seen_while_an_adapter_is_loaded(running: Running) -> None:
    late, cancelled = running.ask("slow", deadline_s=0.3), running.ask("slow")
    running.wait_for("slow")
    sink(cancelled).cancelled = True
    assert isinstance(error_of(late), DeadlineError)
    assert isinstance(error_of(cancelled), RequestCancelledError)


def test_a_load_that_takes_too_long_is_called_that(
    parser: RequestParser, tokenizer: Tokenizer
) -> None:
    running = Running(parser, tokenizer)
    running.engine._admission.max_wait_s = 0.3
    error = error_of(running.ask("slow"))
    assert str(error) == "adapter slow was not loaded within 0.3 s; try again"
    running.close()


@pytest.mark.parametrize("passing", [True, False])
def test_a_load_that_fails_fails_who_waits_and_the_next_is_tried(
    passing: bool, running: Running
) -> None:
    waiting = [running.ask("bad") for _ in range(2)]
    running.wait_for("bad")
    running.step.report("bad", "could not be read: x: Input/output error", passing=passing)
    for one in waiting:
        error = error_of(one)
        assert type(error) is (AdapterUnreadableError if passing else InvalidRequestError)
        assert "Input/output error" in str(error)
    again = running.ask("bad")
    running.wait_for("bad", times=2)
    running.step.report("bad")
    assert sink(again).done.wait(20)
    assert sink(again).error is None


def test_after_a_failed_step_the_models_are_told_again(running: Running) -> None:
    long = running.ask("first", max_tokens=400)
    running.wait_for("first")
    running.step.fails_in = 3
    running.step.report("first")
    assert isinstance(error_of(long), StepError)
    assert long.output_length
    again = running.ask("first")
    running.wait_for("first", times=2)
    assert not sink(again).done.is_set()
    running.step.report("first")
    assert sink(again).done.wait(20)
    assert sink(again).error is None


def test_steps_for_loading_alone_that_fail_end_who_waits(running: Running) -> None:
    running.step.fails_in = 0
    assert isinstance(error_of(running.ask("first")), StepError)
    again = running.ask("first")
    running.wait_for("first", times=2)
    running.step.report("first")
    assert sink(again).done.wait(20)
    assert sink(again).error is None


def test_more_adapters_than_there_is_room_for(running: Running) -> None:
    names = [f"n{number}" for number in range(20)]
    asked = [running.ask(name) for name in names]
    stop = threading.Event()

    def load() -> None:
        done = 0
        while not stop.is_set():
            if len(running.step.changes) > done and not running.step.reports:
                of = running.step.changes[done]
                running.step.reports = [AdapterReport(of.index, of.name, of.stamp)]
                done += 1
            time.sleep(0.001)

    thread = threading.Thread(target=load)
    thread.start()
    for one in asked:
        assert sink(one).done.wait(20)
        assert sink(one).error is None
    stop.set()
    thread.join()
    assert sorted({change.name for change in running.step.changes}) == sorted(names)
    assert np.mean([len(step.rows) for step in running.step.steps]) <= 3


def test_who_needs_more_adapters_than_others_is_not_kept_waiting_for_ever(
    running: Running,
) -> None:
    """Three places; requests with one adapter each come without end."""
    running.step.reports_at_once = True
    crowd = [running.ask(name, max_tokens=40) for name in "xyz"]
    wide = running.ask_for(("u", "v", "w"))
    served = 0
    while not sink(wide).done.wait(0.005):
        assert served < 400
        for place, one in enumerate(crowd):
            if sink(one).done.is_set():
                crowd[place] = running.ask("xyz"[place], max_tokens=40)
                served += 1
    assert sink(wide).error is None
    too_wide = running.ask_for(("p", "q", "r", "s"), submits=False)
    with pytest.raises(
        InvalidRequestError,
        match="lora_names: the server cannot hold so many adapters",
    ):
        running.engine.submit(too_wide)
