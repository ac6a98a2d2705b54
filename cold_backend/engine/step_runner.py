"""Executes what is planned, and finds the request that makes a step fail."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from cold_backend.contract import AdapterReport, Step, StepResult, unpack_reports
from cold_backend.engine.scheduler import Chunk, Scheduler
from cold_backend.engine.step_builder import build_step
from cold_backend.errors import StepError
from cold_backend.requests.sequence import Sequence
from cold_backend.requests.token import Continuation, Token, continuations, picked_tokens
from cold_backend.telemetry.telemetry import Telemetry

_log = logging.getLogger(__name__)

# Executions that a failed step may cost, times the binary digits of its number of requests: enough
# to find four culprits among any number, and all among sixteen. Where nothing works any more it
# would be of no use to go on.
_TRIES = 8


@dataclass(frozen=True, slots=True)
class Picked:
    """What a step found for one request.

    Attributes:
        sequence: of the request.
        tokens: one, or one for each of its beams; None where the model's logits were not finite.
        continuations: of each of its beams; empty if it has none.
    """

    sequence: Sequence
    tokens: list[Token | None]
    continuations: list[list[Continuation]]

    @property
    def finite(self) -> list[Token] | None:
        """The tokens, if the model's logits were numbers for all of them."""
        has_all = all(self.continuations) or not self.sequence.search
        tokens = [token for token in self.tokens if token is not None]
        return tokens if has_all and len(tokens) == len(self.tokens) else None


@dataclass(frozen=True, slots=True)
class Done:
    """Chunks that have been fed, and what the step found.

    Attributes:
        chunks: in the step's order.
        tokens: of each chunk that emits; None where the model's logits were not finite.
        continuations: by the place in `tokens`, of those that are beams.
    """

    chunks: list[Chunk]
    tokens: list[Token | None]
    continuations: dict[int, list[Continuation]]

    def take(self) -> list[Picked]:
        """What was picked, request by request."""
        choosing = [chunk.sequence for chunk in self.chunks if chunk.emits]
        picked: dict[Sequence, Picked] = {}
        for place, sequence in enumerate(choosing):
            one = picked.setdefault(sequence, Picked(sequence, [], []))
            one.tokens.append(self.tokens[place])
            one.continuations.append(self.continuations.get(place, []))
        return [*picked.values()]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a plan.

    Attributes:
        done: the parts that worked: one, unless something failed.
        failed: requests without which the rest works.
        reports: what the models say of the adapters that they had to load.
        prepared_s: time to build the steps, in seconds.
        executed_s: time to execute them.
    """

    done: list[Done]
    failed: list[Sequence]
    reports: list[AdapterReport]
    prepared_s: float
    executed_s: float


class StepRunner:
    """Executes plans.

    A step that fails is executed again in halves, so that one request's fault ends that request
    alone. Executing a chunk a second time writes the same keys and values to the same places, and
    no choice depends on the other rows, so the others get the tokens that they would have got.

    Args:
        execute: does one step.
        scheduler: has the adapters that the models must load.
        telemetry: is told of the steps.
    """

    def __init__(
        self, execute: Callable[[Step], StepResult], scheduler: Scheduler, telemetry: Telemetry
    ) -> None:
        self._execute = execute
        self._adapters = scheduler.adapters
        self._telemetry = telemetry
        self._reports: list[AdapterReport] = []
        self._prepared_s = self._executed_s = 0.0

    def ask(self) -> StepResult:
        """A step without anything in it, for what the models say of themselves. Raises what it
        raises."""
        return self._execute(build_step([], []))

    def run(self, chunks: list[Chunk]) -> Outcome:
        """Executes a plan; an empty one has the models load adapters and nothing else."""
        self._prepared_s = self._executed_s = 0.0
        self._reports = []
        done: list[Done] = []
        failed: list[Sequence] = []
        owners = [*dict.fromkeys(chunk.sequence for chunk in chunks)]
        parts = [owners]
        tries = 1 + _TRIES * len(owners).bit_length()
        while parts:
            part = parts.pop()
            tries -= 1
            one = self._try(_of(chunks, part)) if tries >= 0 else None
            if one:
                done.append(one)
            elif len(part) > 1 and tries > 0:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
            else:
                failed += part
        if failed:
            _log.error("%d of the step's %d requests failed", len(failed), len(owners))
        return Outcome(done, failed, self._reports, self._prepared_s, self._executed_s)

    def _try(self, chunks: list[Chunk]) -> Done | None:
        begun_s = executing_s = time.monotonic()
        try:
            changes = self._adapters.take_changes()
            step = build_step(chunks, changes)
            executing_s = time.monotonic()
            with self._telemetry.executing([chunk.sequence for chunk in chunks], step):
                result = self._execute(step)
            done = Done(chunks, picked_tokens(result), continuations(result))
            if len(done.tokens) != len(step.choices):
                raise StepError(f"{len(done.tokens)} tokens for {len(step.choices)} choices")
        except Exception:
            # Whatever went wrong below, requests must end and the loop must go on.
            _log.exception("a decoding step failed")
            self._adapters.reload()
            return None
        finally:
            self._prepared_s += executing_s - begun_s
            self._executed_s += time.monotonic() - executing_s
        self._reports += unpack_reports(result.loads)
        return done


def _of(chunks: list[Chunk], owners: list[Sequence]) -> list[Chunk]:
    members = set(owners)
    return [chunk for chunk in chunks if chunk.sequence in members]
