"""Decodes many sequences at once, each able to go back to an earlier place in its KV cache.

A walk visits, one after another, every continuation of one prompt that is wanted, in a slot: blocks
for a whole context, which it keeps. What lies before a branch stays there, so that nothing is
computed twice: the next continuation begins where it leaves the common prefix.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from cold_backend.adapters.served import ServedAdapter
from cold_backend.contract import Reader, blocks_for
from cold_backend.decoding.logits import Logits
from cold_backend.engine.step_builder import Feed, build_step, lengths_of
from cold_backend.models.language_model import LanguageModel
from cold_backend.requests.answer import FinishReason
from cold_backend.requests.context import contexts_of
from cold_backend.requests.hypothesis import Hypothesis
from cold_backend.requests.request import GenerationRequest
from cold_backend.requests.token import Token
from cold_backend.text.tokenizer import Tokenizer
from cold_eval.policies import View, views
from cold_kernels import Ops


class Walk(Protocol):
    """The continuations of one prompt."""

    @property
    def hypothesis(self) -> Hypothesis | None:
        """What is decoded now; None when all has been."""
        ...

    @property
    def alpha(self) -> float:
        """The smallest one that its policies look at."""
        ...

    @property
    def by_divergence(self) -> bool:
        """Whether one of them asks how far expert and amateur are apart."""
        ...

    def see(self, view: View) -> None:
        """Takes what the step shows.

        Mutates: `hypothesis`, which may become another one.
        """
        ...


AnyWalk = TypeVar("AnyWalk", bound=Walk)


class Walker(Generic[AnyWalk]):
    """Runs walks, as many at once as the model's blocks are enough for.

    Args:
        model: runs the rows of expert and amateur.
        ops: the kernels.
        adapters: names, by adapter index of the model.
        most: walks at once, at most.
        context: tokens of one.
        step_tokens: tokens of one step, at least as many as walks.
    """

    def __init__(
        self,
        model: LanguageModel,
        ops: Ops,
        adapters: Sequence[str],
        *,
        most: int,
        context: int,
        step_tokens: int,
    ) -> None:
        self._model = model
        self._ops = ops
        self._indices = {ServedAdapter(name): index for index, name in enumerate(adapters)}
        self._blocks = blocks_for(context)
        self._free = list(range(min(most, model.blocks // (len(Reader) * self._blocks))))
        self._step_tokens = step_tokens

    def run(self, walks: Iterable[AnyWalk]) -> Iterator[AnyWalk]:
        """Yields each walk when it has ended."""
        waiting = deque(walk for walk in walks if walk.hypothesis is not None)
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
        feeds = self._plan(running)
        step = build_step([*feeds.values()], [])
        logits = self._model.forward(step.tokens, step.rows, step.blocks)
        choosing = [running[slot] for slot, feed in feeds.items() if feed.emits]
        for feed in feeds.values():
            for context, length in zip(feed.hypothesis.contexts, feed.lengths, strict=True):
                context.fed += length
        alpha = min(walk.alpha for walk in running.values())
        if choosing:
            read = Logits.of(step, logits)
            asks = any(walk.by_divergence for walk in choosing)
            apart = self._ops.divergence(read.expert, read.base) if asks else None
            shown = views(read.expert, read.base, alpha, apart)
            for walk, view in zip(choosing, shown, strict=True):
                walk.see(view)
        return [slot for slot, walk in running.items() if walk.hypothesis is None]

    def _plan(self, running: dict[int, AnyWalk]) -> dict[int, Feed]:
        """By slot: a token of each walk that generates, then as much of the prompts as fits."""
        walking = []
        for slot, walk in running.items():
            if walk.hypothesis is not None:
                self._place(walk.hypothesis, slot)
                walking.append((slot, walk.hypothesis))
        feeds, room = {}, self._step_tokens
        for slot, hypothesis in sorted(walking, key=lambda pair: pair[1].pending > 1):
            length = min(hypothesis.pending, room)
            if length:
                feeds[slot] = Feed(hypothesis, lengths_of(hypothesis, length))
                room -= length
        return feeds

    def _place(self, hypothesis: Hypothesis, slot: int) -> None:
        """Gives a hypothesis a walk's slot, which has all but the last token of its output if it
        has any. Mutates: the hypothesis, unless it has the slot."""
        if hypothesis.contexts:
            return
        hypothesis.contexts = contexts_of(hypothesis.request, self._indices)
        for number, context in enumerate(hypothesis.contexts):
            first = (slot * len(Reader) + number) * self._blocks
            context.blocks = [*range(first, first + self._blocks)]
            if hypothesis.output_length:
                context.fed = len(context.prompt) + hypothesis.output_length - 1


def continued(
    request: GenerationRequest, output: Iterable[Token], tokenizer: Tokenizer
) -> tuple[Hypothesis, FinishReason | None]:
    """A hypothesis with that output already, and why it ends with it."""
    hypothesis = Hypothesis.of(request, tokenizer)
    reason = None
    for token in output:
        reason = hypothesis.accept(token)
    return hypothesis, reason
