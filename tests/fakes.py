"""Stand-ins for what is slow or far away: steps without a model, a client that keeps all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from cold_backend.config import Settings
from cold_backend.contract import (
    BLOCK_TOKENS,
    CANDIDATE,
    NONE,
    PICK,
    Step,
    StepResult,
    blocks_for,
    table,
)
from cold_backend.engine.adapter_slots import AdapterSlots
from cold_backend.engine.admission import Admission
from cold_backend.engine.engine import Engine
from cold_backend.engine.memory import Memory
from cold_backend.engine.scheduler import Scheduler
from cold_backend.errors import ColdError
from cold_backend.requests.answer import Piece
from cold_backend.requests.parser import RequestParser
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
    """Picks 100, 101, … for each sequence and keeps the steps that it was given.

    Args:
        blocks: of the expert's pool.
        base_blocks: of the base's; 0 if the expert's has its contexts too.
    """

    def __init__(self, blocks: int = 4096, base_blocks: int = 0) -> None:
        self.steps: list[Step] = []  # but for those that only ask how many blocks there are
        self.before: Callable[[], None] = lambda: None
        self._sizes = {"expert_blocks": np.array([blocks]), "base_blocks": np.array([base_blocks])}

    def __call__(self, step: Step) -> StepResult:
        if not asks_only(step):
            self.before()
            self.steps.append(step)
        picks = np.zeros(len(step.choices), PICK)
        picks["token"] = 100 + step.choices["position"]
        return StepResult(picks, table(CANDIDATE, []), **self._sizes)


def asks_only(step: Step) -> bool:
    """Whether a step is there to tell how many blocks there are."""
    return not len(step.rows) and not len(step.adapters)


def tables(step: Step) -> list[list[int]]:
    """The blocks of each row."""
    counts = [blocks_for(int(row["start"] + row["length"])) for row in step.rows]
    assert sum(counts) == len(step.blocks)
    ends = np.cumsum(counts, dtype=int)
    return [step.blocks[end - n : end].tolist() for n, end in zip(counts, ends, strict=True)]


class RandomModel(CountingStep):
    """Log-probabilities that depend on what is in the blocks of a row.

    Attributes:
        held: all tokens of each row of the newest step, from its blocks.
        computed: tokens that contexts have been fed.
    """

    TOKENS = (END, 100, 101, 102, 103)

    def __init__(self, blocks: int = 4096, base_blocks: int = 0) -> None:
        super().__init__(blocks, base_blocks)
        self._pools: dict[tuple[int, int], list[int]] = {}  # tokens by pool and block
        self.held: list[list[int]] = []
        self.computed = 0

    def __call__(self, step: Step) -> StepResult:
        result = super().__call__(step)
        self.held = self._feed(step)
        found = []
        for number in np.flatnonzero(step.choices["candidates"]):
            log_probs = self.log_probs(tuple(self.held[step.choices["expert"][number]]))
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
        self._agree(step)
        return replace(result, candidates=table(CANDIDATE, found))

    def _agree(self, step: Step) -> None:
        """Expert and base of a choice have read the same."""
        for choice in step.choices:
            read = [self.held[row] for row in (choice["expert"], choice["base"]) if row != NONE]
            assert all(tokens == read[0] for tokens in read)

    def log_probs(self, ids: tuple[int, ...]) -> dict[int, float]:
        shares = np.random.default_rng(list(ids)).dirichlet(np.ones(len(self.TOKENS)))
        return dict(zip(self.TOKENS, np.log(shares), strict=True))

    def _feed(self, step: Step) -> list[list[int]]:
        """All tokens of each row's context, from its blocks."""
        for copy in step.copies:
            pool = self._pool(copy["reader"])
            assert (copy["source"], pool) not in {(c["target"], pool) for c in step.copies}
            self._pools[pool, copy["target"]] = [*self._pools[pool, copy["source"]]]
        ends = np.cumsum(step.rows["length"])
        written: set[tuple[int, int]] = set()
        held = []
        for row, blocks, end in zip(step.rows, tables(step), ends, strict=True):
            places = [(self._pool(row["reader"]), block) for block in blocks]
            first, begun = divmod(int(row["start"]), BLOCK_TOKENS)
            own = {*places[first:]}
            assert not own & written, "two rows write into the same block"
            written |= own
            before = [t for place in places[:first] for t in self._pools[place]]
            before += self._pools[places[first]][:begun] if begun else []
            assert len(before) == row["start"]
            tokens = before + step.tokens[end - row["length"] : end].tolist()
            for number, place in enumerate(places):
                if number >= first:
                    content = tokens[number * BLOCK_TOKENS : (number + 1) * BLOCK_TOKENS]
                    self._pools[place] = content
            self.computed += int(row["length"])
            held.append(tokens)
        return held

    def _pool(self, reader: int) -> int:
        return int(reader) if self._sizes["base_blocks"][0] else 0


def new_scheduler(
    max_sequences: int,
    adapters: AdapterSlots | None = None,
    *,
    max_step_tokens: int = 8,
    reuse: bool = True,
) -> Scheduler:
    slots = adapters or AdapterSlots(["a", "b"])
    return Scheduler(max_sequences, max_step_tokens, slots, Memory(reuse=reuse))


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
    thread = threading.Thread(target=engine.run, daemon=True)
    thread.start()
    for one in sequences:
        assert sink(one).done.wait(20)
    engine.close()
    thread.join(20)
    assert not thread.is_alive()
