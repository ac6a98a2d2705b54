"""A request's way to the queue: whatever happens there, it ends once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from cold_backend.adapter_catalogue import AdapterCatalogue, ServedAdapter
from cold_backend.config import Settings
from cold_backend.errors import ColdError, InvalidRequestError, ShuttingDownError
from cold_backend.intake import Intake
from cold_backend.request import RequestParser
from cold_backend.telemetry import Telemetry
from cold_backend.tokenizer import Tokenizer
from tests.unit.test_engine import CountingStep, Sink, new_engine, new_scheduler

SETTINGS = Settings(base_model="m", adapters={"a": "p", "b": "p"}, max_context=512)


class SlowCatalogue(AdapterCatalogue):
    """Has to read `b`, which takes until `go` and then fails with `error`, if there is one."""

    def __init__(self) -> None:
        super().__init__(SETTINGS, None)
        self.go = threading.Event()
        self.error: Exception | None = None

    def is_read(self, name: str) -> bool:
        return name != "b"

    def find(self, name: str) -> ServedAdapter:
        if name == "b":
            assert self.go.wait(20)
            if self.error:
                raise self.error
        return super().find(name)


class Setup:
    """An intake before a running engine."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.catalogue = SlowCatalogue()
        self.engine = new_engine(CountingStep(), new_scheduler(2), 5)
        self.thread = threading.Thread(target=self.engine.run)
        self.thread.start()
        parser, telemetry = RequestParser(SETTINGS, tokenizer), Telemetry(SETTINGS)
        self.intake = Intake(parser, self.catalogue, self.engine, tokenizer, telemetry)

    def ask(self, adapter: str) -> Sink:
        sink = Sink()
        inputs = {"input_ids": np.arange(5, 10), "max_tokens": np.array([3])}
        self.intake.take(
            inputs | {"lora_name": np.array([adapter], object)}, lambda _: sink, "1", {}
        )
        return sink

    def close(self) -> None:
        self.catalogue.go.set()
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
    setup.catalogue.go.set()
    assert slow.done.wait(20)
    assert slow.tokens == [100, 101, 102]


@pytest.mark.parametrize("error", [InvalidRequestError("lora_name", "no"), RuntimeError("secret")])
def test_what_cannot_be_read_is_refused(error: Exception, setup: Setup) -> None:
    setup.catalogue.error = error
    setup.catalogue.go.set()
    sink = setup.ask("b")
    assert sink.done.wait(20)
    assert isinstance(sink.error, ColdError)
    assert "secret" not in str(sink.error)


def test_what_is_read_while_the_server_stops_is_refused(setup: Setup) -> None:
    slow = setup.ask("b")
    setup.close()
    assert isinstance(slow.error, ShuttingDownError)
    with pytest.raises(ShuttingDownError):
        setup.ask("b")
