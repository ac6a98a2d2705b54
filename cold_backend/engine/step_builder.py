"""Writes the step contract's arrays for what is planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from cold_backend.contract import (
    BAN,
    CHOICE,
    COPY,
    COUNT,
    NONE,
    ROW,
    AdapterChange,
    Reader,
    Step,
    pack_changes,
    table,
)
from cold_backend.requests.context import Context
from cold_backend.requests.hypothesis import Hypothesis
from cold_backend.requests.sampling import Sampling

_SAMPLING = [setting.name for setting in fields(Sampling)]  # columns of CHOICE, all of them


@dataclass(frozen=True, slots=True)
class Feed:
    """What a step feeds to all contexts of a hypothesis.

    Attributes:
        hypothesis: whose tokens are fed.
        length: how many, the next ones.
    """

    hypothesis: Hypothesis
    length: int

    @property
    def emits(self) -> bool:
        """Whether these are the last ones, so that the step picks the next."""
        return self.length == self.hypothesis.pending


def build_step(feeds: Sequence[Feed], changes: list[AdapterChange]) -> Step:
    """The step for a plan, and for the adapters that it needs loaded."""
    read = [
        (feed, context)
        for reader in Reader
        for feed in feeds
        for context in feed.hypothesis.contexts
        if context.reader is reader
    ]
    rows = {id(context): row for row, (_, context) in enumerate(read)}
    choosing = [feed.hypothesis for feed in feeds if feed.emits]
    tokens = [
        token
        for feed, context in read
        for token in feed.hypothesis.tokens[context.fed :][: feed.length]
    ]
    bans = [
        {"choice": number, "token": token}
        for number, one in enumerate(choosing)
        for token in one.banned
    ]
    counts = [
        {"choice": number, "token": token, "times": times}
        for number, one in enumerate(choosing)
        if one.request.sampling.penalises
        for token, times in one.counts.items()
    ]
    return Step(
        tokens=np.array(tokens, np.int64),
        rows=table(ROW, [_row(feed, context) for feed, context in read]),
        choices=table(CHOICE, [_choice(one, rows) for one in choosing]),
        bans=table(BAN, bans),
        counts=table(COUNT, counts),
        copies=table(COPY, [_copy(context) for _, context in read if context.copied_from]),
        adapters=pack_changes(changes),
    )


def _row(feed: Feed, context: Context) -> dict[str, Any]:
    return {
        "reader": context.reader,
        "slot": context.slot,
        "start": context.fed,
        "length": feed.length,
        "adapter": NONE if context.adapter is None else context.adapter,
        "strength": context.strength,
        "emits": feed.emits,
    }


def _choice(hypothesis: Hypothesis, rows: dict[int, int]) -> dict[str, Any]:
    mine = {context.reader: rows[id(context)] for context in hypothesis.contexts}
    sampling, forced = hypothesis.request.sampling, hypothesis.forced
    return {
        "expert": mine.get(Reader.EXPERT, NONE),
        "base": mine.get(Reader.BASE, NONE),
        "position": hypothesis.output_length,
        "candidates": hypothesis.candidates,
        "forced": NONE if forced is None else forced,
        **{name: getattr(sampling, name) for name in _SAMPLING},
    }


def _copy(context: Context) -> dict[str, Any]:
    source, start = context.copied_from or (context.slot, context.fed)
    return {
        "reader": context.reader,
        "source": source,
        "target": context.slot,
        "start": start,
        "end": context.fed,
    }
