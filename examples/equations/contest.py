"""Word problems answered by a server with several decodings, and how fast each is."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from cold_client import Client, Piece, Request, Result
from equations.data import Problem, has_right_value

Decoding = Literal["base", "greedy", "cold"]
DECODINGS: tuple[Decoding, ...] = ("base", "greedy", "cold")
MAX_TOKENS = 40  # the longest true equation has 40 with its end
ROUNDS = 3  # of timings


@dataclass(frozen=True)
class Answer:
    """An answer of a decoding, piece by piece, and whether it is right.

    Right is an equation of the right value, such as a sum in another order.
    """

    pieces: tuple[Piece, ...]
    text: str
    is_right: bool


@dataclass(frozen=True)
class Contest:
    """Problems, and by decoding their answers in the same order."""

    problems: list[Problem]
    answers: dict[Decoding, list[Answer]] = field(
        default_factory=lambda: {decoding: [] for decoding in DECODINGS}
    )

    def right(self, decoding: Decoding) -> int:
        """How many answers are right."""
        return sum(answer.is_right for answer in self.answers[decoding])

    def differing(self) -> list[int]:
        """Problems that greedy and CoLD do not answer alike, those that one gets right first."""
        pairs = list(zip(self.answers["greedy"], self.answers["cold"], strict=True))
        numbers = [i for i, (greedy, cold) in enumerate(pairs) if greedy.text != cold.text]
        return sorted(numbers, key=lambda i: pairs[i][0].is_right == pairs[i][1].is_right)


@dataclass(frozen=True)
class Speed:
    """Of a decoding: medians over the rounds."""

    ttft_ms: float
    ms_per_token: float


def answer(client: Client, decoding: Decoding, problem: Problem) -> Answer:
    """Has a problem answered. Raises what `Client.stream` raises."""
    with client.stream(_request(decoding, problem, MAX_TOKENS)) as stream:
        pieces = tuple(stream)
        text = stream.result().text
    return Answer(pieces, text, has_right_value(text, problem))


def measure_speed(client: Client, problem: Problem, tokens: int) -> dict[Decoding, Speed]:
    """Times the decodings in turn, one request at a time, over answers of so many tokens.

    Raises what `Client.stream` raises.
    """
    results: dict[Decoding, list[Result]] = {decoding: [] for decoding in DECODINGS}
    for number in range(ROUNDS):
        for decoding in DECODINGS:
            request = _request(decoding, problem, tokens, ignore_eos=True)
            # With a salt of its own it computes the prompt, whatever was asked before.
            request = replace(request, cache_salt=f"{decoding} {number}")
            with client.stream(request) as stream:
                for _ in stream:
                    pass
                results[decoding].append(stream.result())
    return {decoding: _speed(taken) for decoding, taken in results.items()}


def _request(
    decoding: Decoding, problem: Problem, tokens: int, *, ignore_eos: bool = False
) -> Request:
    return Request(
        messages=problem.messages,
        decoding=decoding,
        max_tokens=tokens,
        ignore_eos=ignore_eos,
        return_contrast=True if decoding == "cold" and not ignore_eos else None,
    )


def _speed(results: list[Result]) -> Speed:
    def median_ms(seconds: Callable[[Result], float]) -> float:
        return 1000 * statistics.median(map(seconds, results))

    return Speed(
        ttft_ms=median_ms(lambda r: r.ttft_s),
        ms_per_token=median_ms(
            lambda r: (r.latency_s - r.ttft_s) / max(1, r.num_output_tokens - 1)
        ),
    )
