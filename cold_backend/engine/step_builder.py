"""Writes the step contract's arrays for what is planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from cold_backend.contract import (
    BIAS,
    BLOCK_TOKENS,
    CHOICE,
    COPY,
    COUNT,
    MAX_ADAPTERS,
    NONE,
    ROW,
    AdapterChange,
    Step,
    blocks_for,
    pack_changes,
    table,
)
from cold_backend.requests.context import Context, Role
from cold_backend.requests.hypothesis import Hypothesis
from cold_backend.requests.sampling import Sampling

_SAMPLING = [setting.name for setting in fields(Sampling)]  # columns of CHOICE, all of them


@dataclass(frozen=True, slots=True)
class Feed:
    """What a step feeds to the contexts of a hypothesis.

    Attributes:
        hypothesis: whose tokens are fed.
        lengths: how many to each context, the next ones.
    """

    hypothesis: Hypothesis
    lengths: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of the hypothesis that it is ahead by afterwards."""
        return max(self.lengths)

    @property
    def emits(self) -> bool:
        """Whether these are the last ones, so that the step picks the next."""
        return self.length == self.hypothesis.pending


def lengths_of(hypothesis: Hypothesis, length: int) -> tuple[int, ...]:
    """Lengths of a feed that takes a hypothesis `length` tokens further.

    The contexts get to its end in the same step: one that is ahead waits for the others.
    """
    rest = hypothesis.pending - length
    return tuple(max(0, hypothesis.unfed(context) - rest) for context in hypothesis.contexts)


def build_step(feeds: Sequence[Feed], changes: list[AdapterChange]) -> Step:
    """The step for a plan, and for the adapters that it needs loaded."""
    read = [
        (feed, context, length)
        for feed in feeds
        for context, length in zip(feed.hypothesis.contexts, feed.lengths, strict=True)
        if length
    ]
    # Neighbours with the same adapters share what the kernels read of them.
    read.sort(key=lambda one: (one[1].reader, one[1].adapters))
    rows = {context: row for row, (_, context, _) in enumerate(read)}
    choosing = [feed.hypothesis for feed in feeds if feed.emits]
    tokens = [
        token
        for feed, context, length in read
        for token in feed.hypothesis.tokens_of(context)[context.fed : context.fed + length]
    ]
    blocks = [block for _, context, length in read for block in _blocks(context, length)]
    biases = [
        {"choice": number, "token": token, "bias": bias}
        for number, one in enumerate(choosing)
        for token, bias in one.biases
    ]
    counts = [one.counts.table(number) for number, one in enumerate(choosing) if one.counts]
    return Step(
        tokens=np.array(tokens, np.int64),
        rows=table(ROW, [_row(*one) for one in read]),
        blocks=np.array(blocks, np.int32),
        choices=table(CHOICE, [_choice(one, rows) for one in choosing]),
        biases=table(BIAS, biases),
        counts=np.concatenate([np.empty(0, COUNT), *counts]),
        copies=table(COPY, [_copy(one) for _, one, _ in read if one.copied_from is not None]),
        adapters=pack_changes(changes),
    )


def _blocks(context: Context, length: int) -> list[int]:
    return context.blocks[: blocks_for(context.fed + length)]


def _row(feed: Feed, context: Context, length: int) -> dict[str, Any]:
    free = MAX_ADAPTERS - len(context.adapters)
    return {
        "reader": context.reader,
        "start": context.fed,
        "length": length,
        "adapters": [index for index, _ in context.adapters] + [NONE] * free,
        "strengths": [strength for _, strength in context.adapters] + [1.0] * free,
        "emits": feed.emits,
    }


def _choice(hypothesis: Hypothesis, rows: dict[Context, int]) -> dict[str, Any]:
    mine = {context.role: rows[context] for context in hypothesis.contexts}
    sampling, forced = hypothesis.request.sampling, hypothesis.forced
    return {
        **{role.value: mine.get(role, NONE) for role in Role},
        "position": hypothesis.output_length,
        "candidates": hypothesis.candidates,
        "alternatives": hypothesis.request.top_logprobs,
        "forced": NONE if forced is None else forced,
        **{name: getattr(sampling, name) for name in _SAMPLING},
    }


def _copy(context: Context) -> dict[str, Any]:
    return {
        "reader": context.reader,
        "source": context.copied_from,
        "target": context.blocks[context.fed // BLOCK_TOKENS],
    }
