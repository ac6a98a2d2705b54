"""Stand-ins for what is slow or far away: steps without a model, a client that keeps all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from cold_backend.config import Settings
from cold_backend.contract import CANDIDATE, PICK, Step, StepResult, table
from cold_backend.engine.adapter_slots import AdapterSlots
from cold_backend.engine.admission import Admission
from cold_backend.engine.engine import Engine
from cold_backend.engine.scheduler import Scheduler
from cold_backend.errors import ColdError
from cold_backend.requests.answer import Piece
from cold_backend.requests.request import RequestParser
from cold_backend.requests.sequence import Sequence
from cold_backend.telemetry.telemetry import Telemetry
from cold_backend.text.tokenizer import Tokenizer

END = 2  # the real tokenizer's end of sequence


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
    """Picks 100, 101, … for each sequence and keeps the steps that it was given."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.before: Callable[[], None] = lambda: None

    def __call__(self, step: Step) -> StepResult:
        self.before()
        self.steps.append(step)
        picks = np.zeros(len(step.choices), PICK)
        picks["token"] = 100 + step.choices["position"]
        return StepResult(picks, table(CANDIDATE, []))


class RandomModel(CountingStep):
    """Log-probabilities that depend on what has been fed to a slot, or copied into it."""

    TOKENS = (END, 100, 101, 102, 103)

    def __init__(self) -> None:
        super().__init__()
        self.slots: dict[tuple[int, int], list[int]] = {}  # tokens by reader and slot

    def __call__(self, step: Step) -> StepResult:
        result = super().__call__(step)
        self._feed(step)
        found = []
        for number in np.flatnonzero(step.choices["candidates"]):
            row = step.rows[step.choices["expert"][number]]
            log_probs = self.log_probs(tuple(self.slots[_place(row)]))
            best = sorted(log_probs.items(), key=lambda x: -x[1])
            found += [
                {
                    "choice": number,
                    "token": token,
                    "log_prob": score,
                    "expert_log_prob": score,
                    "base_log_prob": np.nan,
                }
                for token, score in best[: step.choices["candidates"][number]]
            ]
        return StepResult(result.picks, table(CANDIDATE, found))

    def log_probs(self, ids: tuple[int, ...]) -> dict[int, float]:
        shares = np.random.default_rng(list(ids)).dirichlet(np.ones(len(self.TOKENS)))
        return dict(zip(self.TOKENS, np.log(shares), strict=True))

    def _feed(self, step: Step) -> None:
        for copy in step.copies:
            target, source = (int(copy["reader"]), int(copy["target"])), self.slots[_source(copy)]
            kept = self.slots.get(target, [])[: copy["start"]]
            assert kept == source[: copy["start"]]
            self.slots[target] = source[: copy["end"]]
        ends = np.cumsum(step.rows["length"])
        for row, end in zip(step.rows, ends, strict=True):
            held = self.slots.get(_place(row), [])[: row["start"]]
            assert len(held) == row["start"]
            self.slots[_place(row)] = held + step.tokens[end - row["length"] : end].tolist()


def _place(row: np.void) -> tuple[int, int]:
    return int(row["reader"]), int(row["slot"])


def _source(copy: np.void) -> tuple[int, int]:
    return int(copy["reader"]), int(copy["source"])


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
