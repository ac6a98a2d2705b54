"""Which sequences run, and which of their tokens the next step feeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cold_backend.adapter_slots import AdapterSlots
from cold_backend.contract import AdapterChange, Reads, Step, pack_changes
from cold_backend.sequence import Sequence
from cold_kernels import Mode

_READS = {Mode.COLD: Reads.EXPERT | Reads.BASE, Mode.EXPERT: Reads.EXPERT, Mode.BASE: Reads.BASE}


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens of one sequence that a step feeds: the next `length` ones."""

    sequence: Sequence
    length: int

    @property
    def emits(self) -> bool:
        """Whether these are the last ones, so that the step picks the next."""
        return self.length == self.sequence.pending


class Scheduler:
    """Gives KV-cache slots to sequences and divides a step's tokens among them.

    Args:
        max_sequences: slots that there are.
        max_step_tokens: tokens of one step, at least max_sequences.
        adapters: the models' adapters by index.
    """

    def __init__(self, max_sequences: int, max_step_tokens: int, adapters: AdapterSlots) -> None:
        self.adapters = adapters
        self._free = list(reversed(range(max_sequences)))
        self._max_step_tokens = max_step_tokens
        self.running: list[Sequence] = []

    @property
    def has_room(self) -> bool:
        """Whether a slot is free."""
        return bool(self._free)

    def admit(self, sequence: Sequence) -> None:
        """Gives a sequence a slot, and its adapter an index; there must be room."""
        sequence.adapter_index = self.adapters.take(sequence.adapter)
        sequence.slot = self._free.pop()
        self.running.append(sequence)

    def release(self, sequence: Sequence) -> None:
        """Takes the slot back, and the adapter's index."""
        self.adapters.give_back(sequence.adapter_index)
        self.running.remove(sequence)
        self._free.append(sequence.slot)
        sequence.slot = -1

    def plan(self) -> list[Chunk]:
        """The next step's chunks.

        Sequences that generate go first, a token each, so that a long prompt never stalls them;
        prompts share what is left, oldest first.
        """
        chunks = []
        budget = self._max_step_tokens
        for sequence in sorted(self.running, key=lambda s: s.pending > 1):
            length = min(sequence.pending, budget)
            if length:
                chunks.append(Chunk(sequence, length))
                budget -= length
        return chunks


def build_step(chunks: list[Chunk], changes: list[AdapterChange]) -> Step:
    """The step contract's arrays for a plan and the adapters that it needs loaded."""
    emitting = [chunk.sequence for chunk in chunks if chunk.emits]
    tokens = [
        token
        for chunk in chunks
        for token in chunk.sequence.tokens[chunk.sequence.fed :][: chunk.length]
    ]
    bans = [(row, token) for row, s in enumerate(emitting) for token in s.banned]
    counts = [
        (row, token, times)
        for row, s in enumerate(emitting)
        if s.request.sampling.penalises
        for token, times in s.counts.items()
    ]
    return Step(
        tokens=np.array(tokens, np.int64),
        rows=np.array([_row(chunk) for chunk in chunks], np.int32),
        draws=np.array([_draw(s) for s in emitting], np.int64).reshape(-1, 4),
        shapes=np.array([_shape(s) for s in emitting], np.float32).reshape(-1, 8),
        bans=np.array(bans, np.int64).reshape(-1, 2),
        counts=np.array(counts, np.int64).reshape(-1, 3),
        adapters=pack_changes(changes),
    )


def _row(chunk: Chunk) -> tuple[int, ...]:
    """In the order of `contract.Row`."""
    sequence = chunk.sequence
    request = sequence.request
    reads = _READS[request.sampling.mode]
    if request.return_contrast:
        reads |= Reads.EXPERT | Reads.BASE
    return (
        sequence.slot,
        sequence.fed,
        chunk.length,
        sequence.adapter_index,
        int(reads),
        int(chunk.emits),
    )


def _draw(sequence: Sequence) -> tuple[int, ...]:
    """In the order of `contract.Draw`."""
    sampling = sequence.request.sampling
    seed = sampling.seed - (1 << 64) if sampling.seed >> 63 else sampling.seed
    return int(sampling.mode), sampling.top_k, seed, sequence.output_length


def _shape(sequence: Sequence) -> tuple[float, ...]:
    """In the order of `contract.Shape`."""
    s = sequence.request.sampling
    return (
        s.alpha,
        s.beta,
        s.temperature,
        s.top_p,
        s.min_p,
        s.repetition_penalty,
        s.presence_penalty,
        s.frequency_penalty,
    )
