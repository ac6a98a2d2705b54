"""Decodes many sequences at once, each able to go back to an earlier place in its KV-cache slot.

A walk visits, one after another, every continuation of one prompt that is wanted. What lies before
a branch stays in the slot, so that nothing is computed twice: the next continuation begins where
it leaves the common prefix.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from cold_backend.engine.scheduler import Chunk, build_step
from cold_backend.errors import ColdError
from cold_backend.models.language_model import LanguageModel
from cold_backend.requests.request import GenerationRequest
from cold_backend.requests.sequence import FinishReason, Piece, Sequence
from cold_backend.requests.token import Token
from cold_backend.text.tokenizer import Tokenizer
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
        """Takes what the step shows.

        Mutates: `sequence`, which may become another one, whose `fed` says how much of the slot it
        shares.
        """
        ...


AnyWalk = TypeVar("AnyWalk", bound=Walk)


class Walker(Generic[AnyWalk]):
    """Runs walks, as many at once as the model has slots.

    Args:
        model: reads expert and base, in this order; its only adapter is that of all walks.
        slots: of the model.
        step_tokens: tokens of one step, at least as many as slots.
    """

    def __init__(self, model: LanguageModel, slots: int, step_tokens: int) -> None:
        self._model = model
        self._free = list(range(slots))
        self._step_tokens = step_tokens

    def run(self, walks: Iterable[AnyWalk]) -> Iterator[AnyWalk]:
        """Yields each walk when it has ended."""
        waiting = deque(walk for walk in walks if walk.sequence is not None)
        running: dict[int, AnyWalk] = {}  # by slot
        while waiting or running:
            while waiting and self._free:
                slot = self._free.pop()
                running[slot] = waiting.popleft()
            ended = self._step(running)
            self._free += ended
            for slot in ended:
                yield running.pop(slot)

    def _step(self, running: dict[int, AnyWalk]) -> list[int]:
        """One step of all; returns the slots of the walks that have ended."""
        chunks = self._plan(running)
        emitting = [chunk.sequence for chunk in chunks if chunk.emits]
        step = build_step(chunks, [])
        expert, base = self._model.forward(step.tokens, step.rows)
        for chunk in chunks:
            chunk.sequence.fed += chunk.length
        alpha = min(walk.alpha for walk in running.values())
        for sequence, view in zip(emitting, views(expert, base, alpha), strict=True):
            running[sequence.slot].see(view)
        return [slot for slot, walk in running.items() if walk.sequence is None]

    def _plan(self, running: dict[int, AnyWalk]) -> list[Chunk]:
        """A token of each walk that generates, then as much of the prompts as fits."""
        sequences = []
        for slot, walk in running.items():
            if walk.sequence is not None:
                walk.sequence.slot, walk.sequence.adapter_index = slot, 0
                sequences.append(walk.sequence)
        chunks, room = [], self._step_tokens
        for sequence in sorted(sequences, key=lambda s: s.pending > 1):
            length = min(sequence.pending, room)
            if length:
                chunks.append(Chunk(sequence, length))
                room -= length
        return chunks


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
