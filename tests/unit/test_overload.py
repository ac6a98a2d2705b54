"""Who waits, who is next, who is refused, and what is told of it."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cold_backend.config import Settings
from cold_backend.engine.admission import Admission, Ahead, Claim, Line
from cold_backend.engine.waiting import AGE_S, WaitingQueue
from cold_backend.errors import DeadlineError, OverloadedError
from cold_backend.requests.answer import FinishReason
from cold_backend.requests.parser import RequestParser
from cold_backend.requests.sequence import Sequence
from cold_backend.telemetry import metrics as m
from cold_backend.telemetry.load import Load, Usage
from cold_backend.telemetry.logs import JsonLines, TextLines
from cold_backend.telemetry.telemetry import Telemetry
from cold_backend.text.tokenizer import Tokenizer
from tests.fakes import (
    CountingStep,
    Sink,
    new_engine,
    new_scheduler,
    run_all,
    sequence,
    sink,
)

SETTINGS = Settings(base_model="m", adapters={"a": "p", "b": "p"}, max_context=512)


@pytest.fixture
def parser(tokenizer: Tokenizer) -> RequestParser:
    return RequestParser(SETTINGS, tokenizer)


def served(queue: WaitingQueue, count: int, now_s: float, tokens: int = 10) -> list[Sequence]:
    taken: list[Sequence] = []
    for _ in range(count):
        found = queue.next(now_s)
        assert found
        taken.append(found)
        queue.take(found)
        queue.charge(found.request.adapter, tokens)
    return taken


def check(
    admission: Admission,
    ahead: int,
    *,
    tokens: int = 0,
    prompt_tokens: int = 1,
    max_tokens: int = 9,
    deadline_s: float = math.inf,
) -> None:
    admission.check(
        waiting=ahead,
        ahead=Ahead(ahead, tokens),
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        left_s=deadline_s,
        deadline_s=deadline_s,
    )


def learn(admission: Admission, token_s: float) -> None:
    """Steps full of prompts; the first of them is a slow one that tells nothing."""
    admission.fed(100, 9e9)
    for _ in range(3):
        admission.fed(100, 100 * token_s)


class Clock:
    """Stands for the module `time`."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def monotonic(self) -> float:
        return self.now_s

    def passes(self, seconds: float) -> None:
        self.now_s += seconds


def waiting(queue: WaitingQueue, one: Sequence, accepted_s: float = 0) -> Sequence:
    one.accepted_s = accepted_s
    queue.put(one)
    return one


def test_priorities_and_age(parser: RequestParser, tokenizer: Tokenizer) -> None:
    queue = WaitingQueue()
    last, normal, first = (
        waiting(queue, sequence(parser, tokenizer, priority=p)) for p in (2, 1, 0)
    )
    assert queue.order(1) == [first, normal, last]
    others = [waiting(WaitingQueue(), sequence(parser, tokenizer, priority=p)) for p in (0, 1, 2)]
    assert [len(queue.ahead_of(other, 1)) for other in others] == [1, 2, 3]
    assert served(queue, 3, now_s=1) == [first, normal, last]

    old = waiting(queue, sequence(parser, tokenizer, priority=2), accepted_s=0)
    young = waiting(queue, sequence(parser, tokenizer, priority=0), accepted_s=2 * AGE_S)
    assert served(queue, 2, now_s=2 * AGE_S) == [old, young]


def test_adapters_share(parser: RequestParser, tokenizer: Tokenizer) -> None:
    """Ten requests for one adapter do not make the two for another wait for all of them."""
    queue = WaitingQueue()
    many = [waiting(queue, sequence(parser, tokenizer, lora_name="a")) for _ in range(10)]
    few = [waiting(queue, sequence(parser, tokenizer, lora_name="b")) for _ in range(2)]
    new = [waiting(WaitingQueue(), sequence(parser, tokenizer, lora_name=n)) for n in "ab"]
    assert [len(queue.ahead_of(one, 1)) for one in new] == [12, 5]
    foreseen = queue.order(1)
    order = served(queue, 12, now_s=1, tokens=5)
    assert order == foreseen
    assert order[:4] in ([many[0], few[0], many[1], few[1]], [many[0], few[0], few[1], many[1]])
    assert order[4:] == many[2:]


def test_an_idle_adapter_saves_nothing_up(parser: RequestParser, tokenizer: Tokenizer) -> None:
    queue = WaitingQueue()
    for _ in range(40):
        waiting(queue, sequence(parser, tokenizer, lora_name="a"))
    served(queue, 20, now_s=1, tokens=1000)
    for _ in range(20):
        waiting(queue, sequence(parser, tokenizer, lora_name="b"))
    names = [one.request.adapter for one in served(queue, 20, now_s=1, tokens=1000)]
    assert abs(names.count("a") - names.count("b")) <= 2


@given(
    released=st.lists(st.floats(0.01, 5), min_size=9, max_size=40),
    ahead=st.integers(0, 50),
    deadline_s=st.floats(0.1, 100) | st.just(math.inf),
    token_s=st.floats(0.001, 1),
)
def test_what_cannot_be_served_in_time_is_refused(
    released: list[float], ahead: int, deadline_s: float, token_s: float
) -> None:
    admission = Admission(max_queue=100, max_wait_s=20)
    now_s = 0.0
    for interval_s in released:
        now_s += interval_s
        admission.released(now_s, waiting=True)
    admission.answered(0.5, 8 * token_s, 9, max_tokens=18)
    shortest, longest = min(released[1:]), max(released[1:])
    answer_s = 0.5 + 10 * token_s  # half of the 20 tokens
    slots = ahead + math.sqrt(ahead)
    try:
        check(admission, ahead, max_tokens=20, deadline_s=deadline_s)
        assert slots * shortest <= 20.001
        assert not ahead or slots * shortest + answer_s <= deadline_s * 1.001
    except OverloadedError as error:
        assert ahead
        assert slots * longest >= 19.999 or slots * longest + answer_s >= deadline_s * 0.999
        assert "try again in about" in str(error)


def test_idle_time_is_no_interval() -> None:
    admission = Admission(max_queue=100, max_wait_s=20)
    admission.released(0, waiting=True)
    admission.released(1, waiting=False)
    admission.released(1000, waiting=True)
    check(admission, 25)  # one interval says little
    for now_s in range(1001, 1008):
        admission.released(now_s, waiting=True)
    check(admission, 16)
    with pytest.raises(
        OverloadedError, match=r"be 30\.0 s, more than 20 s; try again in about 10 s"
    ):
        check(admission, 25)
    with pytest.raises(OverloadedError, match=r"take 6\.0 s, more than deadline_s, 5 s; try"):
        check(admission, 4, deadline_s=5)


def test_what_need_not_wait_is_tried() -> None:
    admission = Admission(max_queue=2, max_wait_s=20)
    check(admission, 1, max_tokens=10_000, deadline_s=0.001)
    admission.answered(60, 60, 2, max_tokens=2)
    learn(admission, token_s=10)
    check(admission, 0, prompt_tokens=100, deadline_s=1)
    with pytest.raises(OverloadedError):
        check(admission, 1, deadline_s=1)


def test_prompts_that_must_be_fed_first_are_foreseen() -> None:
    admission = Admission(max_queue=300, max_wait_s=20)
    check(admission, 200, tokens=200_000)
    learn(admission, token_s=0.01)
    check(admission, 200, tokens=1999)
    with pytest.raises(
        OverloadedError, match=r"be 50\.0 s, more than 20 s; try again in about 30 s"
    ):
        check(admission, 5, tokens=5000)
    with pytest.raises(OverloadedError, match=r"take 15\.0 s, more than deadline_s, 12 s"):
        check(admission, 5, tokens=1000, prompt_tokens=500, deadline_s=12)


def test_what_waits_is_given_up_only_when_it_is_certain() -> None:
    admission = Admission(max_queue=300, max_wait_s=20)
    ahead = Ahead(places=25, prompt_tokens=1500)
    never = math.inf
    assert admission.hopeless(ahead, waited_s=0, left_s=never) is None
    learn(admission, token_s=0.01)
    assert admission.hopeless(ahead, waited_s=4, left_s=never) is None
    assert admission.hopeless(ahead, waited_s=4, left_s=14)
    assert admission.hopeless(ahead, waited_s=6, left_s=never)
    for number in range(9):
        assert admission.hopeless(ahead, waited_s=0, left_s=never) is None
        admission.released(1.25 * number, waiting=True)
    error = admission.hopeless(ahead, waited_s=0, left_s=never)
    assert str(error) == "the wait could be 25.0 s, more than 20 s; try again in about 5 s"


_CLAIMS = st.tuples(st.integers(1, 3), st.integers(1, 20))  # places and blocks


@given(
    running=st.lists(st.tuples(_CLAIMS, st.integers(0, 9)), max_size=5),
    free=st.tuples(st.integers(0, 3), st.integers(0, 20)),
    waiting=st.lists(st.tuples(_CLAIMS, st.integers(0, 9)), max_size=9),
)
def test_those_ahead_end_in_order(
    running: list[tuple[Claim, int]], free: Claim, waiting: list[tuple[Claim, int]]
) -> None:
    line = Line(free, running)
    before = [*running]
    for claim, tokens in waiting:
        everything = [f + sum(c[i] for c, _ in running) for i, f in enumerate(free)]
        if any(need > most for need, most in zip(claim, everything, strict=True)):
            continue  # larger than the server
        ahead = line.ahead_of(claim)
        joined = before[len(running) :]
        short = [need - free[i] + sum(c[i] for c, _ in joined) for i, need in enumerate(claim)]
        ended = next(
            n
            for n in range(len(before) + 1)
            if all(sum(c[i] for c, _ in before[:n]) >= short[i] for i in range(2))
        )
        assert ahead.prompt_tokens == sum(t for _, t in before[:ended])
        freed = sum(c[0] for c, _ in before[:ended])
        assert ahead.places == max(0, short[0], freed if short[1] > 0 else 0)
        line.join(claim, tokens)
        before.append((claim, tokens))


def test_a_burst_of_long_prompts_is_refused_once_the_rate_is_known(
    parser: RequestParser, tokenizer: Tokenizer
) -> None:
    """Steps of 8 tokens take a second, prompts of 80 ten, and 35 s is what they may wait."""
    step = CountingStep()
    scheduler = new_scheduler(2)
    engine = new_engine(step, scheduler, 50, max_wait_s=35)
    prompts = {"input_ids": np.arange(5, 85), "max_tokens": np.array([1])}
    burst = [Sequence(parser.parse(prompts), Sink(), tokenizer) for _ in range(20)]
    begun_s = burst[0].accepted_s
    clock = Clock(begun_s)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cold_backend.engine.engine.time", clock)
        patch.setattr("cold_backend.engine.lobby.time", clock)
        for one in burst:
            one.accepted_s = begun_s
            engine.submit(one)
        step.before = lambda: clock.passes(1)
        while clock.now_s < begun_s + 8:
            engine.step()
        refused = [one for one in burst if sink(one).error]
        assert refused == burst[5:], "two run; the others get a slot after 10, 20, 30, 40 s"
        assert all(isinstance(sink(one).error, OverloadedError) for one in refused)
        later = [
            Sequence(parser.parse(prompts), Sink(), tokenizer, accepted_s=clock.now_s)
            for _ in range(2)
        ]
        engine.submit(later[0])
        with pytest.raises(OverloadedError, match="the wait could be"):
            engine.submit(later[1])
        while scheduler.running or len(engine._waiting):
            engine.step()
    assert all(sink(one).tokens == [100] for one in [*burst[:5], later[0]])


def test_deadlines_end_what_runs_and_what_waits(
    parser: RequestParser, tokenizer: Tokenizer
) -> None:
    step = CountingStep()
    engine = new_engine(step, new_scheduler(1), 5)
    running, queued, other = (
        sequence(parser, tokenizer, max_tokens=n, deadline_s=d)
        for n, d in ((400, 50.0), (400, 50.0), (3, 500.0))
    )
    for one in (running, queued, other):
        engine.submit(one)

    def time_passes() -> None:
        if len(step.steps) == 3:
            running.accepted_s -= 100
            queued.accepted_s -= 100
            engine._next_check_s = 0.0

    step.before = time_passes
    run_all(engine, [running, queued, other])
    for one in (running, queued):
        assert isinstance(sink(one).error, DeadlineError)
        assert str(sink(one).error) == "deadline_s: the answer was not complete after 50 s"
    assert sink(other).tokens == [100, 101, 102]


def test_who_waits_too_long_is_told(parser: RequestParser, tokenizer: Tokenizer) -> None:
    step = CountingStep()
    engine = new_engine(step, new_scheduler(1), 5, max_wait_s=20)
    running, queued = (sequence(parser, tokenizer, max_tokens=20) for _ in range(2))
    for one in (running, queued):
        engine.submit(one)

    def time_passes() -> None:
        queued.accepted_s -= 100
        engine._next_check_s = 0.0

    step.before = time_passes
    run_all(engine, [running, queued])
    assert isinstance(sink(queued).error, OverloadedError)
    assert len(sink(running).tokens) == 20


def test_draining_ends_with_what_was_accepted(parser: RequestParser, tokenizer: Tokenizer) -> None:
    engine = new_engine(CountingStep(), new_scheduler(1), 5)
    accepted = [sequence(parser, tokenizer, max_tokens=4) for _ in range(3)]
    for one in accepted:
        engine.submit(one)
    engine.drain()
    with pytest.raises(Exception, match="shutting down"):
        engine.submit(sequence(parser, tokenizer))
    engine.run()
    assert [len(sink(one).tokens) for one in accepted] == [4, 4, 4]


def test_what_is_told_of_a_request(
    parser: RequestParser, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cold_backend.telemetry.telemetry")
    telemetry = Telemetry(SETTINGS)
    request = parser.parse({"input_ids": np.arange(5, 10), "max_tokens": np.array([3])})
    trace = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
    one = Sequence(request, Sink(), tokenizer, request_id="7", trace=trace)
    one.admitted_s = one.accepted_s + 0.25
    telemetry.admitted(one)
    one.answer.tokens += [1, 2, 3]
    one.first_token_s = one.accepted_s + 1
    telemetry.ended(one, FinishReason.LENGTH, one.accepted_s + 2)
    telemetry.sample(Load(running=2, waiting=3, adapters=2, memory=Usage(512, 128, 64, 7, 90)))
    changes = telemetry.metrics.take()
    assert changes.counts[m.REQUESTS, ("a", "cold", "length")] == 1
    assert changes.counts[m.PROMPT_TOKENS, ("a",)] == 5
    assert changes.observations[m.ITL] == [pytest.approx(0.5)]
    assert changes.observations[m.QUEUE] == [pytest.approx(0.25)]
    assert changes.gauges[m.KV_BLOCKS] == 512
    assert (changes.gauges[m.KV_USED], changes.gauges[m.KV_CACHED]) == (0.25, 0.125)
    assert changes.counts[m.KV_EVICTIONS, ()] == 7
    assert changes.counts[m.REUSED_TOKENS, ()] == 90
    assert not telemetry.metrics.take().counts

    line = json.loads(JsonLines("cold").format(caplog.records[0]))
    assert (line["request"], line["trace"]) == ("7", "ab" * 16)
    assert (line["output_tokens"], line["outcome"], line["ttft_ms"]) == (3, "length", 1000)
    assert "prompt" not in line
    assert "request=7" in TextLines("cold").format(caplog.records[0])


def test_prompts_are_logged_only_when_asked(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cold_backend.telemetry.telemetry")
    settings = Settings(base_model="m", adapters={"a": "p"}, log_prompts=True)
    request = RequestParser(settings, tokenizer).parse(
        {"text_input": np.array([b"A secret"], object)}
    )
    Telemetry(settings).ended(Sequence(request, Sink(), tokenizer), FinishReason.STOP, 0)
    assert vars(caplog.records[0])["prompt"] == "A secret"
