"""Which sequences run, and which of their tokens the next step feeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cold_backend.contract import AdapterChange, Copy, Draw, Reads, Row, Shape, Step, pack_changes
from cold_backend.engine.adapter_slots import AdapterSlots
from cold_backend.requests.sequence import Sequence
from cold_kernels import Mode

_READS = {Mode.COLD: Reads.EXPERT | Reads.BASE, Mode.EXPERT: Reads.EXPERT, Mode.BASE: Reads.BASE}


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens of one sequence, or beam, that a step feeds: the next `length` ones."""

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
        self.max_step_tokens = max_step_tokens
        self.running: list[Sequence] = []

    @property
    def free(self) -> int:
        """How many slots are free."""
        return len(self._free)

    def admit(self, sequence: Sequence) -> None:
        """Gives a sequence its slots, and its adapter an index; so many must be free."""
        sequence.adapter_index = self.adapters.take(sequence.adapter)
        sequence.slots = [self._free.pop() for _ in range(sequence.width)]
        sequence.slot = sequence.slots[0]
        self.running.append(sequence)

    def release(self, sequence: Sequence) -> None:
        """Takes the slots back, and the adapter's index."""
        self.adapters.give_back(sequence.adapter_index)
        self.running.remove(sequence)
        self._free += sequence.slots
        sequence.slots, sequence.slot = [], -1
        sequence.search = None  # its beams refer to the sequence, which would keep it alive

    def plan(self) -> list[Chunk]:
        """The next step's chunks.

        Sequences that generate go first, a token each, so that a long prompt never stalls them;
        prompts share what is left, oldest first.
        """
        chunks = []
        budget = self.max_step_tokens
        ready = [s for s in self.running if self.adapters.has(s.adapter_index)]
        rows = [row for sequence in ready for row in sequence.rows]
        for sequence in sorted(rows, key=lambda s: s.pending > 1):
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
    copies = [_copy(s) for s in emitting if s.copied_from]
    return Step(
        tokens=np.array(tokens, np.int64),
        rows=np.array([_row(chunk) for chunk in chunks], np.int32).reshape(-1, len(Row)),
        draws=np.array([_draw(s) for s in emitting], np.int64).reshape(-1, len(Draw)),
        shapes=np.array([_shape(s) for s in emitting], np.float32).reshape(-1, len(Shape)),
        bans=np.array(bans, np.int64).reshape(-1, 2),
        counts=np.array(counts, np.int64).reshape(-1, 3),
        adapters=pack_changes(changes),
        copies=np.array(copies, np.int32).reshape(-1, len(Copy)),
    )


def _row(chunk: Chunk) -> tuple[int, ...]:
    """In the order of `contract.Row`."""
    sequence = chunk.sequence
    return (
        sequence.slot,
        sequence.fed,
        chunk.length,
        sequence.adapter_index,
        int(_reads(sequence)),
        int(chunk.emits),
    )


def _reads(sequence: Sequence) -> Reads:
    request = sequence.request
    if request.return_contrast:
        return Reads.EXPERT | Reads.BASE
    return _READS[request.sampling.mode]


def _copy(beam: Sequence) -> tuple[int, ...]:
    """In the order of `contract.Copy`."""
    source, start = beam.copied_from or (beam.slot, beam.fed)
    return source, beam.slot, start, beam.fed, int(_reads(beam))


def _draw(sequence: Sequence) -> tuple[int, ...]:
    """In the order of `contract.Draw`."""
    sampling = sequence.request.sampling
    seed = sampling.seed - (1 << 64) if sampling.seed >> 63 else sampling.seed
    search = sequence.owner.search
    options = search.options if search else 0
    position = sequence.output_length
    return int(sampling.mode), sampling.top_k, seed, position, options, sequence.given


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
