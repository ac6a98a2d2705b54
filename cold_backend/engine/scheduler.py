"""Which sequences run, and which of their tokens the next step feeds."""

from __future__ import annotations

from dataclasses import dataclass

from cold_backend.engine.adapter_slots import AdapterSlots
from cold_backend.engine.step_builder import Feed
from cold_backend.requests.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk(Feed):
    """Tokens of a sequence, or of one of its beams, that a step feeds."""

    sequence: Sequence


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
        adapter_index = self.adapters.take(sequence.adapter)
        sequence.begin([self._free.pop() for _ in range(sequence.width)], adapter_index)
        self.running.append(sequence)

    def release(self, sequence: Sequence) -> None:
        """Takes the slots back, and the adapter's index."""
        self.adapters.give_back(sequence.adapter_index)
        self.running.remove(sequence)
        self._free += sequence.end()

    def plan(self) -> list[Chunk]:
        """The next step's chunks.

        Sequences that generate go first, a token each, so that a long prompt never stalls them;
        prompts share what is left, oldest first.
        """
        chunks = []
        budget = self.max_step_tokens
        ready = [s for s in self.running if self.adapters.has(s.adapter_index)]
        fed = [(sequence, one) for sequence in ready for one in sequence.hypotheses]
        for sequence, hypothesis in sorted(fed, key=lambda pair: pair[1].pending > 1):
            length = min(hypothesis.pending, budget)
            if length:
                chunks.append(Chunk(hypothesis, length, sequence))
                budget -= length
        return chunks
