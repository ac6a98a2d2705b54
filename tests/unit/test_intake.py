"""A request's way to the queue: whatever happens there, it ends once, and others do not wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, cast

import numpy as np
import pytest

from cold_backend.adapters.catalogue import AdapterCatalogue
from cold_backend.adapters.defaults import AdapterDefaults, AmateurRule
from cold_backend.adapters.served import ServedAdapter
from cold_backend.config import Settings
from cold_backend.engine.engine import Engine
from cold_backend.errors import (
    ColdError,
    DeadlineError,
    InvalidRequestError,
    OverloadedError,
    RequestCancelledError,
    ShuttingDownError,
    UnknownAdapterError,
)
from cold_backend.requests.amateur import Amateur
from cold_backend.requests.parser import RequestParser
from cold_backend.requests.request import GenerationRequest
from cold_backend.serving.cancellation import Cancellation
from cold_backend.serving.intake import Intake
from cold_backend.telemetry.telemetry import Telemetry
from cold_backend.text.tokenizer import Tokenizer
from tests.fakes import CountingStep, Sink, new_engine, new_scheduler

SETTINGS = Settings(base_model="m", adapters={"a": "p", "b": "p"}, max_context=4096)
QUEUE = 5


class Catalogue(AdapterCatalogue):
    """Has to read `b`, which takes until somebody says what came of it."""

    def __init__(self) -> None:
        super().__init__(SETTINGS, None)
        self.going: Future[ServedAdapter] = Future()
        self.found: dict[str, ServedAdapter] = {}

    def known(self, name: str) -> ServedAdapter | None:
        return self.found.get(name) if name == "b" else super().known(name)

    def reading(self, name: str) -> Future[ServedAdapter]:
        return super().reading(name) if name == "a" else self.going


class SlowTokenizer:
    """Takes until `go` for what begins with `slow`; notes what it was given.

    Args:
        tokenizer: does the work.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.go = threading.Event()
        self.given: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode(self, text: str, field: str) -> list[int]:
        self.given.append(text)
        if text.startswith("slow"):
            assert self.go.wait(20)
        return self._tokenizer.encode(text, field)


class Reply(Sink):
    """Is its own sink."""

    request: GenerationRequest | None = None

    def sink_for(self, request: GenerationRequest) -> Sink:
        self.request = request
        return self


class Setup:
    """An intake before an engine, which runs if it is told to."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.catalogue = Catalogue()
        self.tokenizer = cast(Any, SlowTokenizer(tokenizer))
        self.step = CountingStep()
        self.engine: Engine = new_engine(self.step, new_scheduler(2), QUEUE)
        self.thread = threading.Thread(target=self.engine.run)
        parser = RequestParser(SETTINGS, self.tokenizer)
        self.telemetry = Telemetry(SETTINGS)
        self.intake = Intake(
            parser, self.catalogue, self.engine, self.tokenizer, self.telemetry, max_wait_s=60
        )

    def ask(self, text: str = "", *, age_s: float = 0, **fields: object) -> Reply:
        reply = Reply()
        inputs: dict[str, Any] = {"max_tokens": np.array([3])}
        if text:
            inputs["text_input"] = np.array([text.encode()], object)
        for name, value in fields.items():
            kind = object if isinstance(value, str | list) else None
            inputs[name] = np.array([value], kind).reshape(-1)
        self.intake.take(inputs, reply, "1", {}, time.monotonic() - age_s)
        return reply

    def close(self) -> None:
        self.tokenizer.go.set()
        if not self.catalogue.going.done():
            self.catalogue.going.set_result(ServedAdapter("b"))
        self.engine.close()
        if self.thread.is_alive():
            self.thread.join(20)
        else:
            self.engine.run()
        self.intake.close()


@pytest.fixture
def stopped(tokenizer: Tokenizer) -> Iterator[Setup]:
    setup = Setup(tokenizer)
    yield setup
    setup.close()


@pytest.fixture
def setup(stopped: Setup) -> Setup:
    stopped.thread.start()
    return stopped


def eventually(holds: Callable[[], object]) -> None:
    give_up_s = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < give_up_s
        time.sleep(0.005)


def test_others_do_not_wait_for_what_is_read(setup: Setup) -> None:
    slow = setup.ask("Hello", lora_name="b")
    assert setup.ask("Hello", lora_name="a").done.wait(20)
    assert not slow.done.is_set()
    defaults = AdapterDefaults("greedy", 0.3, 0.25)
    setup.catalogue.going.set_result(ServedAdapter("b", defaults=defaults))
    assert slow.done.wait(20)
    assert slow.tokens == [100, 101, 102]
    assert slow.request
    assert (slow.request.decoding, slow.request.sampling.beta) == ("greedy", 0.25)


@pytest.mark.parametrize(
    "fields",
    [
        {"lora_name": "a", "amateur_lora_name": "b"},
        {"lora_names": ["a", "b"]},
        {"lora_names": ["b"], "amateur_lora_name": "a"},
        {"lora_names": ["b", "a"], "amateur_lora_name": "a"},
    ],
    ids=str,
)
def test_all_adapters_are_waited_for(fields: dict[str, Any], setup: Setup) -> None:
    slow = setup.ask("Hello", **fields)
    assert setup.ask("Hello", lora_name="a").done.wait(20)
    assert not slow.done.is_set()
    setup.catalogue.going.set_result(ServedAdapter("b", defaults=AdapterDefaults("greedy")))
    assert slow.done.wait(20)
    assert slow.error is None
    assert slow.request and {*slow.request.adapter_names} == {"a", "b"}
    assert slow.request.decoding == "cold"  # which is the expert's one adapter's to say


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"lora_name": "b"}, "lora_name"),
        ({"lora_name": "a", "amateur_lora_name": "b"}, "amateur_lora_name"),
        ({"lora_names": ["a", "b"]}, "lora_names"),
        ({"lora_names": ["b"]}, "lora_names"),
    ],
    ids=str,
)
def test_an_adapter_that_cannot_be_used_is_told_by_its_field(
    fields: dict[str, Any], field: str, setup: Setup
) -> None:
    setup.catalogue.going.set_exception(InvalidRequestError("lora_name", "it is broken"))
    reply = setup.ask("Hello", **fields)
    assert reply.done.wait(20)
    assert str(reply.error) == f"{field}: it is broken"


def test_a_rule_may_need_another_adapter(setup: Setup) -> None:
    """Only where the request does not say what to contrast with."""
    rule = AmateurRule(lora_name="a", lora_scale=0.5, last_tokens=2)
    tuned = ServedAdapter("b", defaults=AdapterDefaults(amateur=rule))
    setup.catalogue.going.set_result(tuned)
    ruled = setup.ask("Once upon a time", lora_name="b")
    own = setup.ask("Once upon a time", lora_name="b", amateur_lora_name="")
    greedy = setup.ask("Once upon a time", lora_name="b", decoding="greedy")
    for one in (ruled, own, greedy):
        assert one.done.wait(20) and one.error is None and one.request
    assert ruled.request and own.request and greedy.request
    last = ruled.request.prompt[-2:]
    assert ruled.request.amateur == Amateur(prompt=last, adapters=(("a", 0.5),))
    assert own.request.amateur == Amateur(prompt=own.request.prompt, adapters=())
    assert greedy.request.amateur is None and greedy.request.adapter_names == ("b",)


def test_a_rule_that_asks_for_what_there_is_not_is_told_by_its_adapter(setup: Setup) -> None:
    tuned = AdapterDefaults(amateur=AmateurRule(lora_name="nobody"))
    setup.catalogue.found["b"] = ServedAdapter("b", defaults=tuned)
    setup.catalogue.going.set_exception(UnknownAdapterError("lora_name", "no adapter 'nobody'"))
    reply = setup.ask("Once upon a time", lora_name="b")
    assert reply.done.wait(20)
    assert str(reply.error) == "lora_name: adapter b: cold.json: amateur: no adapter 'nobody'"


def test_a_rule_may_be_a_strength_alone(setup: Setup) -> None:
    tuned = AdapterDefaults(amateur=AmateurRule(lora_scale=0.25))
    setup.catalogue.going.set_result(ServedAdapter("b", defaults=tuned))
    reply = setup.ask("Once upon a time", lora_name="b")
    assert reply.done.wait(20) and reply.error is None and reply.request
    assert reply.request.amateur == Amateur(prompt=reply.request.prompt, adapters=(("b", 0.25),))


def test_a_rule_keeps_a_part_of_the_prompt_from_the_amateur(setup: Setup) -> None:
    rule = AmateurRule(without="context")
    tuned = ServedAdapter("b", defaults=AdapterDefaults(amateur=rule))
    setup.catalogue.going.set_result(tuned)
    whole, question = "Rome is old. How old?", " How old?"
    for fields in ({}, {"decoding": "greedy"}, {"amateur_last_tokens": 3}):
        reply = setup.ask("<context>Rome is old.</context> How old?", lora_name="b", **fields)
        assert reply.done.wait(20) and reply.error is None and reply.request
        assert list(reply.request.prompt) == setup.tokenizer.encode(whole, "")
        if not fields:
            ids = tuple(setup.tokenizer.encode(question, ""))
            assert reply.request.amateur == Amateur(prompt=ids, adapters=(("b", 1.0),))
    broken = setup.ask("<context>Rome is old. How old?", lora_name="b")
    assert broken.done.wait(20)
    assert str(broken.error) == "text_input: a <context> has no </context>"


@pytest.mark.parametrize("error", [InvalidRequestError("lora_name", "no"), RuntimeError("secret")])
def test_what_cannot_be_read_is_refused(error: Exception, setup: Setup) -> None:
    setup.catalogue.going.set_exception(error)
    reply = setup.ask("Hello", lora_name="b")
    assert reply.done.wait(20)
    assert isinstance(reply.error, ColdError)
    assert "secret" not in str(reply.error)


def test_small_prompts_do_not_wait_for_large_ones(setup: Setup) -> None:
    large = [setup.ask("slow " + "x" * 20_000) for _ in range(3)]
    small = [setup.ask("Hello") for _ in range(2)]
    assert all(reply.done.wait(20) for reply in small)
    setup.tokenizer.go.set()
    assert all(reply.done.wait(20) for reply in large)
    assert {reply.ends for reply in [*large, *small]} == {1}


def test_smaller_prompts_are_tokenised_first_unless_they_came_much_later(setup: Setup) -> None:
    first = setup.ask("slow")
    eventually(lambda: setup.tokenizer.given)
    replies = [
        setup.ask("x" * 8000),
        setup.ask("y" * 6000, age_s=20),
        setup.ask("z"),
    ]
    setup.tokenizer.go.set()
    assert all(reply.done.wait(20) for reply in [first, *replies])
    assert [text[0] for text in setup.tokenizer.given] == ["s", "y", "z", "x"]


def test_what_is_tokenised_counts_as_waiting(stopped: Setup) -> None:
    replies = [stopped.ask("slow"), *(stopped.ask("Hello") for _ in range(QUEUE - 1))]
    assert stopped.engine.load().waiting == QUEUE
    with pytest.raises(OverloadedError, match="the queue is full: 5 requests are waiting"):
        stopped.ask("Hello")
    assert set(stopped.tokenizer.given) <= {"slow", "Hello"}
    stopped.tokenizer.go.set()
    stopped.thread.start()
    assert all(reply.done.wait(20) for reply in replies)
    assert stopped.engine.load().waiting == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"alpha": 2.0},
        {"max_tokens": 0},
        {"decoding": "x"},
        {"text_input": "x" * 65_537},
        {"deadline_s": -1.0},
        {"stop_words": ""},
        {"bad_words": "x" * 257},
        {"beam_width": 40, "decoding": "beam"},
        {"priority": 3},
    ],
    ids=str,
)
def test_bad_fields_are_refused_at_once(fields: dict[str, Any], setup: Setup) -> None:
    """Whatever else the request would have to wait for."""
    setup.ask("slow")
    eventually(lambda: setup.tokenizer.given)
    with pytest.raises(InvalidRequestError) as refused:
        setup.ask(**{"text": "slow", "lora_name": "b"} | fields)
    assert refused.value.field == next(iter(fields))
    assert setup.engine.load().waiting == 1


@pytest.mark.parametrize("where", ["tokenised", "behind it", "read"])
def test_a_cancelled_request_ends_before_it_is_tokenised(where: str, setup: Setup) -> None:
    waits = {"tokenised": {"text": "slow b"}, "behind it": {"text": "c"}}
    setup.ask("slow")
    eventually(lambda: setup.tokenizer.given)
    reply = setup.ask(**waits.get(where, {"text": "d", "lora_name": "b"}))  # type: ignore[arg-type]
    reply.cancelled = True
    assert reply.done.wait(20)
    assert isinstance(reply.error, RequestCancelledError)
    setup.close()
    assert reply.ends == 1
    assert setup.tokenizer.given == ["slow"]


@pytest.mark.parametrize("lora_name", ["a", "b"])
def test_deadlines_are_kept_where_requests_wait(lora_name: str, setup: Setup) -> None:
    slow = setup.ask("slow")
    eventually(lambda: setup.tokenizer.given)
    late = setup.ask("Hello", lora_name=lora_name, deadline_s=1.0, age_s=0.8)
    assert late.done.wait(20)
    assert isinstance(late.error, DeadlineError)
    assert not slow.done.is_set()
    setup.tokenizer.go.set()
    assert slow.done.wait(20)
    assert "Hello" not in setup.tokenizer.given


def test_who_waits_too_long_is_refused(setup: Setup) -> None:
    late = setup.ask("Hello", lora_name="b", age_s=61)
    assert late.done.wait(20)
    assert isinstance(late.error, OverloadedError)


def test_time_counts_from_arrival(setup: Setup) -> None:
    reply = setup.ask("Hello", age_s=30)
    assert reply.done.wait(20)
    eventually(lambda: not setup.engine.load().running)
    seen = setup.telemetry.metrics.take().observations
    assert not seen, "the engine's telemetry has them"
    seen = setup.engine._telemetry.metrics.take().observations
    for family, values in seen.items():
        if family.name in (
            "cold_queue_seconds",
            "cold_time_to_first_token_seconds",
            "cold_request_seconds",
        ):
            assert values[0] >= 30, family.name
    assert len(seen) == 4


def test_a_long_prompt_is_known_by_a_part(setup: Setup) -> None:
    reply = setup.ask("a b c d " * 6000)
    assert reply.done.wait(20)
    assert str(reply.error).startswith("text_input: at most 4095 tokens fit in the context, got m")
    assert max(map(len, setup.tokenizer.given)) < 30_000


def test_draining_ends_with_what_has_arrived(setup: Setup) -> None:
    slow, read = setup.ask("slow"), setup.ask("Hello", lora_name="b")
    setup.engine.drain()
    with pytest.raises(ShuttingDownError):
        setup.ask("Hello")
    setup.tokenizer.go.set()
    assert slow.done.wait(20)
    assert setup.thread.is_alive()
    setup.catalogue.going.set_result(ServedAdapter("b"))
    assert read.done.wait(20)
    setup.thread.join(20)
    assert not setup.thread.is_alive()
    assert slow.tokens == read.tokens == [100, 101, 102]


def test_closing_ends_what_has_arrived(setup: Setup) -> None:
    """At once, even if something hangs."""
    replies = [setup.ask("slow"), setup.ask("Hello"), setup.ask("Hello", lora_name="b")]
    setup.engine.close()
    setup.thread.join(20)
    closing = threading.Thread(target=setup.intake.close)
    closing.start()
    assert all(reply.done.wait(20) for reply in replies)
    assert {type(reply.error) for reply in replies} == {ShuttingDownError}
    setup.close()
    closing.join(20)
    assert {reply.ends for reply in replies} == {1}
    with pytest.raises(ShuttingDownError):
        setup.ask("Hello")


def test_all_end_once_whatever_happens(setup: Setup) -> None:
    """Many threads, cancellations at any time."""
    replies: list[Reply] = []

    def ask(number: int) -> None:
        for turn in range(40):
            try:
                reply = setup.ask(f"Hello {number} {turn}" * (turn % 5 + 1))
            except OverloadedError:
                continue
            replies.append(reply)
            reply.cancelled = turn % 3 == 0

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert all(reply.done.wait(20) for reply in replies)
    setup.close()
    assert {reply.ends for reply in replies} == {1}
    assert setup.engine.load().waiting == 0


def test_nobody_is_asked_about_what_has_ended() -> None:
    """tritonserver would not survive it."""
    asked, go = threading.Event(), threading.Event()
    questions = []

    def ask() -> bool:
        questions.append(cancellation.has_ended)
        asked.set()
        return go.wait(20)

    cancellation = Cancellation(ask)
    asking = threading.Thread(target=cancellation.is_asked_for)
    asking.start()
    assert asked.wait(20)
    ending = threading.Thread(target=cancellation.end)
    ending.start()
    ending.join(0.05)
    assert ending.is_alive(), "it waits for who is asking"
    go.set()
    ending.join(20)
    asking.join(20)
    assert not cancellation.is_asked_for()
    assert questions == [False]
