"""Beam search: which hypotheses go on, which have ended, and when the search is over.

Chooses and stops as transformers' beam search does. Knows neither models nor text.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from cold_backend.requests.token import Continuation, Token

Hypothesis = TypeVar("Hypothesis")


class EarlyStopping(enum.Enum):
    """When a search stops that has `width` ended hypotheses."""

    TRUE = "true"  # at once
    FALSE = "false"  # when the best beam, at its length now, scores no better than the worst
    NEVER = "never"  # when it cannot become better at any length


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSettings:
    """How to search; the fields are the inputs of the same name.

    Attributes:
        width: beams, 2 at least.
        length_penalty: an ended hypothesis scores its log-probability / length ** length_penalty.
    """

    width: int
    length_penalty: float
    early_stopping: EarlyStopping


@dataclass(frozen=True, slots=True)
class Scored(Generic[Hypothesis]):
    """A hypothesis; while it runs its score is its log-probability."""

    hypothesis: Hypothesis
    score: float


class BeamSearch(Generic[Hypothesis]):
    """One search, from a hypothesis without tokens to the best that has ended.

    Args:
        settings: how to search.
        max_tokens: length at which every hypothesis ends.
        end_tokens: how many tokens end a hypothesis.
        first: the hypothesis without tokens.
    """

    def __init__(
        self, settings: BeamSettings, max_tokens: int, end_tokens: int, first: Hypothesis
    ) -> None:
        self._settings = settings
        self._max_tokens = max_tokens
        self._length = 0
        self.running = [Scored(first, 0.0)]  # best first
        self.ended: list[Scored[Hypothesis]] = []  # best first
        # So many that `width` can go on if each of as many beams may end with each such token.
        self.options = max(2, 1 + end_tokens) * settings.width

    def advance(
        self,
        found: Sequence[Sequence[Continuation]],
        extend: Callable[[Hypothesis, Token], tuple[Hypothesis, bool]],
    ) -> bool:
        """Continues the beams; says whether the search is over.

        Args:
            found: for each running hypothesis its `options` best continuations.
            extend: a hypothesis with a token added, and whether it has ended with it.
        """
        self._length += 1
        ranked = heapq.nlargest(
            self.options,
            (
                (beam.score + one.log_prob, -place, one.token, beam.hypothesis)
                for place, (beam, ones) in enumerate(zip(self.running, found, strict=True))
                for one in ones
            ),
            key=lambda candidate: candidate[:2],
        )
        width, self.running = self._settings.width, []
        for rank, (score, _, token, past) in enumerate(ranked):
            hypothesis, ends = extend(past, token)
            if not ends:
                self.running.append(Scored(hypothesis, score))
            elif rank < width:
                self.ended.append(Scored(hypothesis, self._normalised(score, self._length)))
            if len(self.running) == width and rank + 1 >= width:
                break
        self.ended.sort(key=lambda one: one.score, reverse=True)
        del self.ended[width:]
        return not self.running or self._is_settled()

    def _is_settled(self) -> bool:
        """Whether the running hypotheses are given up."""
        if len(self.ended) < self._settings.width:
            return False
        stopping, longest = self._settings.early_stopping, self._length
        if stopping is EarlyStopping.TRUE:
            return True
        if stopping is EarlyStopping.NEVER and self._settings.length_penalty > 0:
            longest = self._max_tokens
        return self._normalised(self.running[0].score, longest) <= self.ended[-1].score

    def _normalised(self, log_prob: float, length: int) -> float:
        normalised: float = log_prob / length**self._settings.length_penalty
        return normalised
