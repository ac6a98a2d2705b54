"""A request's way to the queue: whatever happens there, it ends once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import pytest

from cold_backend.adapter_catalogue import AdapterCatalogue, ServedAdapter
from cold_backend.adapter_defaults import AdapterDefaults
from cold_backend.config import Settings
from cold_backend.errors import (
    ColdError,
    DeadlineError,
    InvalidRequestError,
    RequestCancelledError,
    ShuttingDownError,
)
from cold_backend.intake import Intake
from cold_backend.request import GenerationRequest, RequestParser
from cold_backend.telemetry import Telemetry
from cold_backend.tokenizer import Tokenizer
from tests.unit.test_engine import CountingStep, Sink, new_engine, new_scheduler

SETTINGS = Settings(base_model="m", adapters={"a": "p", "b": "p"}, max_context=512)


class SlowCatalogue(AdapterCatalogue):
    """Has to read `b`, until `go` or for ever."""

    def __init__(self) -> None:
        super().__init__(SETTINGS, None)
        self.going: Future[ServedAdapter] = Future()

    def known(self, name: str) -> ServedAdapter | None:
        return None if name == "b" else super().known(name)

    def reading(self, name: str) -> Future[ServedAdapter]:
        return self.going if name == "b" else super().reading(name)

    def go(self) -> None:
        self.going.set_result(ServedAdapter("b", defaults=AdapterDefaults("greedy")))


class Setup:
    """An intake before a running engine."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.catalogue = SlowCatalogue()
        self.requests: list[GenerationRequest] = []
        self.engine = new_engine(CountingStep(), new_scheduler(2), 5)
        self.thread = threading.Thread(target=self.engine.run)
        self.thread.start()
        parser, telemetry = RequestParser(SETTINGS, tokenizer), Telemetry(SETTINGS)
        self.intake = Intake(parser, self.catalogue, self.engine, tokenizer, telemetry)

    def ask(self, adapter: str, **fields: float) -> Sink:
        sink = Sink()
        inputs = {"input_ids": np.arange(5, 10), "max_tokens": np.array([3])}
        inputs |= {name: np.array([value]) for name, value in fields.items()}
        inputs |= {"lora_name": np.array([adapter], object)}

        def sink_for(request: GenerationRequest) -> Sink:
            self.requests.append(request)
            return sink

        self.intake.take(inputs, sink_for, "1", {})
        return sink

    def close(self) -> None:
        self.engine.close()
        self.thread.join(20)
        self.intake.close()


@pytest.fixture
def setup(tokenizer: Tokenizer) -> Iterator[Setup]:
    setup = Setup(tokenizer)
    yield setup
    setup.close()


def test_others_do_not_wait_for_what_is_read(setup: Setup) -> None:
    slow = setup.ask("b")
    assert setup.ask("a").done.wait(20)
    assert not slow.done.is_set()
    setup.catalogue.go()
    assert slow.done.wait(20)
    assert slow.tokens == [100, 101, 102]
    assert setup.requests[-1].decoding == "greedy"  # as the adapter wants it


@pytest.mark.parametrize("error", [InvalidRequestError("lora_name", "no"), RuntimeError("secret")])
def test_what_cannot_be_read_is_refused(error: Exception, setup: Setup) -> None:
    sink = setup.ask("b")
    setup.catalogue.going.set_exception(error)
    assert sink.done.wait(20)
    assert isinstance(sink.error, ColdError)
    assert "secret" not in str(sink.error)


def test_deadlines_and_cancels_do_not_wait_for_a_read(setup: Setup) -> None:
    late, cancelled, patient = setup.ask("b", deadline_s=0.2), setup.ask("b"), setup.ask("b")
    cancelled.cancelled = True
    assert late.done.wait(20)
    assert cancelled.done.wait(20)
    assert isinstance(late.error, DeadlineError)
    assert isinstance(cancelled.error, RequestCancelledError)
    setup.catalogue.go()
    assert patient.done.wait(20)
    assert patient.tokens == [100, 101, 102]


def test_what_is_wrong_besides_is_said_before_anything_is_read(setup: Setup) -> None:
    with pytest.raises(InvalidRequestError, match="max_tokens"):
        setup.ask("b", max_tokens=0)
    with pytest.raises(InvalidRequestError, match="deadline_s"):
        setup.ask("b", deadline_s=-1)


def test_what_is_read_while_the_server_stops_is_refused(setup: Setup) -> None:
    """Although the read never ends."""
    slow = setup.ask("b")
    setup.close()
    assert isinstance(slow.error, ShuttingDownError)
    with pytest.raises(ShuttingDownError):
        setup.ask("b")
