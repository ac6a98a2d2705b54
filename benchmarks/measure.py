"""Rounds of measurements, and the medians and ratios that come of them."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

REFERENCE = "peft_unmerged_greedy"
_WARM_UP_TOKENS = 4
# After an arm's answer its idle threads may still wait busily for more work.
_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer: its tokens, and when the first and the last of them were known."""

    token_ids: list[int]
    ttft_s: float
    latency_s: float

    @property
    def ms_per_token(self) -> float:
        """Milliseconds between tokens; the first one counts as TTFT."""
        return 1000 * (self.latency_s - self.ttft_s) / (len(self.token_ids) - 1)


# Takes prompts, all at once, and the number of tokens that each is to be continued by.
Generate = Callable[[Sequence[list[int]], int], list[Generated]]


@dataclass(frozen=True, slots=True)
class Cell:
    """An arm at a number of streams; the unit that rounds interleave."""

    arm: str
    streams: int
    generate: Generate


@dataclass(slots=True)
class Series:
    """What one cell gave, by round."""

    ttft_ms: list[float] = field(default_factory=list)
    ms_per_token: list[float] = field(default_factory=list)
    tokens_per_s: list[float] = field(default_factory=list)
    token_ids: list[list[int]] = field(default_factory=list)

    def add(self, answers: Sequence[Generated], wall_s: float) -> None:
        self.ttft_ms.append(1000 * statistics.median(a.ttft_s for a in answers))
        self.ms_per_token.append(statistics.median(a.ms_per_token for a in answers))
        self.tokens_per_s.append(sum(len(a.token_ids) for a in answers) / wall_s)
        self.token_ids.append(answers[0].token_ids)


@dataclass(frozen=True, slots=True)
class Row:
    """Medians of a cell over the rounds; the ratio is the median of each round's own ratio."""

    arm: str
    streams: int
    ttft_ms: float
    ms_per_token: float
    ms_per_token_min: float
    ms_per_token_max: float
    tokens_per_s: float
    ratio_ms_per_token: float
    ratio_tokens_per_s: float


def measure(
    cells: Sequence[Cell], prompts: Sequence[list[int]], *, rounds: int, tokens: int
) -> list[Series]:
    """Runs every cell once a round, one after the other, in an order that rotates.

    In round r the streams of all cells begin with prompt r, so a cell at one stream and a cell at
    many see the same prompt first.
    """
    for cell in cells:
        say(f"warming up {cell.arm}, {cell.streams} at once")
        cell.generate(_some(prompts, 0, cell.streams), _WARM_UP_TOKENS)
    series = [Series() for _ in cells]
    for number in range(rounds):
        for position in range(len(cells)):
            index = (position + number) % len(cells)
            cell = cells[index]
            time.sleep(_PAUSE_S)
            begun = time.perf_counter()
            answers = cell.generate(_some(prompts, number, cell.streams), tokens)
            wall_s = time.perf_counter() - begun
            _check_lengths(cell, answers, tokens)
            series[index].add(answers, wall_s)
            say(
                f"round {number + 1}/{rounds}: {cell.arm}, {cell.streams} at once: "
                f"{series[index].ms_per_token[-1]:.1f} ms/token, {wall_s:.1f} s"
            )
    return series


def summarise(cells: Sequence[Cell], series: Sequence[Series]) -> list[Row]:
    """One row a cell."""
    reference = next(s for c, s in zip(cells, series, strict=True) if c.arm == REFERENCE)
    median = statistics.median
    return [
        Row(
            arm=cell.arm,
            streams=cell.streams,
            ttft_ms=median(own.ttft_ms),
            ms_per_token=median(own.ms_per_token),
            ms_per_token_min=min(own.ms_per_token),
            ms_per_token_max=max(own.ms_per_token),
            tokens_per_s=median(own.tokens_per_s),
            ratio_ms_per_token=_ratio(own.ms_per_token, reference.ms_per_token),
            ratio_tokens_per_s=_ratio(own.tokens_per_s, reference.tokens_per_s),
        )
        for cell, own in zip(cells, series, strict=True)
    ]


def equal_rounds(cells: Sequence[Cell], series: Sequence[Series], one: str, other: str) -> int:
    """In how many rounds two arms gave the same tokens at one stream."""
    first, second = (
        next(
            s.token_ids
            for c, s in zip(cells, series, strict=True)
            if c.arm == arm and c.streams == 1
        )
        for arm in (one, other)
    )
    return sum(a == b for a, b in zip(first, second, strict=True))


def _ratio(values: Sequence[float], reference: Sequence[float]) -> float:
    return statistics.median(v / r for v, r in zip(values, reference, strict=True))


def _some(prompts: Sequence[list[int]], start: int, count: int) -> list[list[int]]:
    return [prompts[(start + offset) % len(prompts)] for offset in range(count)]


def _check_lengths(cell: Cell, answers: Sequence[Generated], tokens: int) -> None:
    for answer in answers:
        if len(answer.token_ids) != tokens:
            raise RuntimeError(f"{cell.arm} gave {len(answer.token_ids)} tokens, not {tokens}")


def say(text: str) -> None:
    """Tells how far a benchmark is."""
    print(text, file=sys.stderr, flush=True)
