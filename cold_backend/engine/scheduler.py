"""Which sequences run, and which of their tokens the next step feeds."""

from __future__ import annotations

from dataclasses import dataclass

from cold_backend.config import Settings
from cold_backend.engine.adapter_slots import AdapterSlots
from cold_backend.engine.admission import Claim
from cold_backend.engine.memory import Memory
from cold_backend.engine.step_builder import Feed, lengths_of
from cold_backend.requests.context import Context, contexts_of
from cold_backend.requests.hypothesis import Hypothesis
from cold_backend.requests.request import GenerationRequest
from cold_backend.requests.sequence import Sequence

_Fed = tuple[Sequence, Hypothesis]


@dataclass(frozen=True, slots=True)
class Chunk(Feed):
    """Tokens of a sequence, or of one of its beams, that a step feeds."""

    sequence: Sequence


class Scheduler:
    """Lets sequences run, gives them memory, and divides a step's tokens among them.

    Args:
        max_sequences: hypotheses that run at once.
        max_step_tokens: tokens of one step, at least max_sequences.
        adapters: the models' adapters by index.
        memory: the blocks of what runs.
    """

    def __init__(
        self, max_sequences: int, max_step_tokens: int, adapters: AdapterSlots, memory: Memory
    ) -> None:
        self.adapters = adapters
        self.memory = memory
        self.max_step_tokens = max_step_tokens
        self.running: list[Sequence] = []
        self._max_sequences = max_sequences
        # The contexts of the one that waits for room. What they share is looked up at every step,
        # which takes time the first time alone.
        self._waiting: dict[tuple[Sequence, tuple[int, ...]], tuple[Context, ...]] = {}

    @classmethod
    def of(cls, settings: Settings) -> Scheduler:
        """With the adapters and limits of the settings."""
        return cls(
            settings.max_sequences,
            settings.max_step_tokens,
            AdapterSlots(settings.adapter_names, settings.adapter_room),
            Memory(reuse=settings.prefix_reuse),
        )

    @property
    def free(self) -> Claim:
        """What is free: places for hypotheses, and blocks of each pool."""
        return self._places, *self.memory.rooms

    def claim_of(self, request: GenerationRequest) -> Claim:
        """What a request may need of that, if it shares nothing."""
        return request.width, *self.memory.needs(request)

    def can_ever_run(self, request: GenerationRequest) -> bool:
        """Whether there is enough memory for a request where nothing else runs."""
        sizes, needed = self.memory.sizes, self.memory.needs(request)
        return self.adapters.can_hold(request.adapter_names) and all(
            need <= size for need, size in zip(needed, sizes, strict=True)
        )

    def admit(self, sequence: Sequence) -> bool:
        """Lets a sequence run whose adapters are ready, if there is room for it."""
        if sequence.width > self._places:
            return False
        indices = self.adapters.take(sequence.adapters)
        if (sequence, indices) not in self._waiting:
            adapters = dict(zip(sequence.adapters, indices, strict=True))
            self._waiting = {(sequence, indices): contexts_of(sequence.request, adapters)}
        contexts = self._waiting[sequence, indices]
        if not self.memory.admit(sequence, contexts):
            self.adapters.give_back(indices)
            return False
        self._waiting = {}
        sequence.begin(contexts, indices)
        self.running.append(sequence)
        return True

    def release(self, sequence: Sequence) -> None:
        """Takes back what a sequence has."""
        self.memory.release(sequence)
        self.adapters.give_back(sequence.adapter_indices)
        self.running.remove(sequence)
        sequence.end()

    def plan(self) -> list[Chunk]:
        """The next step's chunks.

        Sequences that generate go first, a token each, so that a long prompt never stalls them;
        prompts share what is left.
        """
        ready = [s for s in self.running if self.adapters.has(s.adapter_indices)]
        fed = [(sequence, one) for sequence in ready for one in sequence.hypotheses]
        for sequence, one in fed:
            if one.pending > 1:
                self.memory.reuse(sequence, one)
        generating = [self._chunk(*pair, 1) for pair in fed if pair[1].pending == 1]
        prompts = [pair for pair in fed if pair[1].pending > 1]
        return generating + self._share_out(prompts, self.max_step_tokens - len(generating))

    def fed(self, chunks: list[Chunk]) -> None:
        """Says that a plan's chunks have been executed. Mutates: their contexts."""
        for chunk in chunks:
            if chunk.sequence.is_running:
                for context, length in zip(chunk.hypothesis.contexts, chunk.lengths, strict=True):
                    self.memory.fed(chunk.hypothesis, context, length)

    @property
    def _places(self) -> int:
        return self._max_sequences - sum(sequence.width for sequence in self.running)

    def _share_out(self, prompts: list[_Fed], budget: int) -> list[Chunk]:
        """Prompts share a step's tokens.

        Half is for the one that came first, so that none waits for ever; then come those that are
        nearest to their first token. One that begins as another does waits until that has been
        computed.
        """
        if not prompts or not budget:
            return []
        first, *others = prompts
        filling: set[bytes] = set()
        lengths: dict[_Fed, int] = {}
        for pair in (first, *sorted(others, key=lambda pair: pair[1].pending)):
            _, one = pair
            length = min(one.pending, budget if lengths else budget - budget // 2)
            spans = lengths_of(one, length)
            if length and filling.isdisjoint(self.memory.next_keys(one, spans)):
                filling.update(self.memory.filled_keys(one, spans))
                lengths[pair] = length
                budget -= length
        lengths[first] += min(first[1].pending - lengths[first], budget)
        return [self._chunk(*pair, length) for pair, length in lengths.items()]

    def _chunk(self, sequence: Sequence, hypothesis: Hypothesis, length: int) -> Chunk:
        """Mutates: the contexts, which get the blocks for their tokens."""
        lengths = lengths_of(hypothesis, length)
        for context, own in zip(hypothesis.contexts, lengths, strict=True):
            self.memory.grow(sequence, context, own)
        return Chunk(hypothesis, lengths, sequence)
