"""Decodes many sequences at once, each able to go back to an earlier place in its KV-cache slot.

A walk visits, one after another, every continuation of one prompt that is wanted. What lies before
a branch stays in the slot, so that nothing is computed twice: the next continuation begins where
it leaves the common prefix.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from cold_backend.adapter_slots import AdapterSlots
from cold_backend.errors import ColdError
from cold_backend.language_model import LanguageModel
from cold_backend.request import GenerationRequest
from cold_backend.scheduler import Scheduler, build_step
from cold_backend.sequence import FinishReason, Piece, Sequence
from cold_backend.token import Token
from cold_backend.tokenizer import Tokenizer
from cold_eval.policies import View, views


class Walk(Protocol):
    """The continuations of one prompt."""

    @property
    def sequence(self) -> Sequence | None:
        """What is decoded now; None when all has been."""
        ...

    @property
    def alpha(self) -> float:
        """The smallest one that its policies look at."""
        ...

    def see(self, view: View) -> None:
        """Takes what the step shows. Mutates: `sequence`, which may become another one, whose
        `fed` says how much of the slot it shares."""
        ...


AnyWalk = TypeVar("AnyWalk", bound=Walk)


class Walker(Generic[AnyWalk]):
    """Runs walks, as many at once as the model has slots.

    Args:
        model: reads expert and base, in this order; its adapters are `adapters`.
        adapters: names by index.
        slots: of the model.
        step_tokens: tokens of one step.
    """

    def __init__(
        self, model: LanguageModel, adapters: tuple[str, ...], slots: int, step_tokens: int
    ) -> None:
        self._model = model
        self._scheduler = Scheduler(slots, step_tokens, AdapterSlots(adapters))

    def run(self, walks: Iterable[AnyWalk]) -> Iterator[AnyWalk]:
        """Yields each walk when it has ended."""
        waiting = deque(walks)
        running: dict[int, AnyWalk] = {}  # by slot
        while waiting or running:
            while waiting and self._scheduler.free:
                walk = waiting.popleft()
                if walk.sequence is not None:
                    self._scheduler.admit(walk.sequence)
                    running[walk.sequence.slot] = walk
            for slot in self._step(running):
                yield running.pop(slot)

    def _step(self, running: dict[int, AnyWalk]) -> list[int]:
        """One step of all; returns the slots of the walks that have ended."""
        chunks = self._scheduler.plan()
        emitting = [chunk.sequence for chunk in chunks if chunk.emits]
        step = build_step(chunks, [])
        expert, base = self._model.forward(step.tokens, step.rows)
        for chunk in chunks:
            chunk.sequence.fed += chunk.length
        alpha = min(walk.alpha for walk in running.values())
        ended = []
        for sequence, view in zip(emitting, views(expert, base, alpha), strict=True):
            walk, slot = running[sequence.slot], sequence.slot
            walk.see(view)
            if walk.sequence is None:
                self._scheduler.release(sequence)
                ended.append(slot)
            elif walk.sequence is not sequence:
                self._replace(sequence, walk.sequence)
        return ended

    def _replace(self, old: Sequence, new: Sequence) -> None:
        new.slots, new.slot, new.adapter_index = old.slots, old.slot, old.adapter_index
        self._scheduler.running[self._scheduler.running.index(old)] = new


class Kept:
    """A sink that keeps the answer."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []

    def send(self, piece: Piece) -> None:
        """See `Sink`."""
        self.pieces.append(piece)

    def fail(self, error: ColdError) -> None:
        """See `Sink`."""
        raise error

    def is_cancelled(self) -> bool:
        """See `Sink`."""
        return False


def continued(
    request: GenerationRequest, output: Iterable[Token], tokenizer: Tokenizer
) -> tuple[Sequence, FinishReason | None]:
    """A sequence with that output already, of which all but the last token is in its slot."""
    sequence = Sequence(request, Kept(), tokenizer)
    reason = None
    for token in output:
        reason = sequence.accept(token, 0.0)
    sequence.fed = len(sequence.tokens) - 1
    return sequence, reason
