"""What a step found, as objects: the token of each row, and the continuations of each beam."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cold_backend.contract import LogProb, Option, OptionScore, Pick, StepResult


@dataclass(frozen=True, slots=True)
class Token:
    """A picked token and what the step found out about it.

    Attributes:
        expert_log_prob: natural logarithm, NaN where the expert did not run.
        base_log_prob: likewise for the base.
        expert_token: the expert's own best, -1 where it did not run.
        valid_count: size of the valid set.
        decoding_log_prob: of a given token under its decoding, see `decoding.forced`; or NaN.
    """

    id: int
    expert_log_prob: float
    base_log_prob: float
    expert_token: int
    valid_count: int
    decoding_log_prob: float = math.nan


@dataclass(frozen=True, slots=True)
class Continuation:
    """A token that may follow a beam, and its log-probability as beams are ranked by it."""

    token: Token
    log_prob: float


def picked_tokens(result: StepResult) -> list[Token]:
    """The token of each emitting row, in row order."""
    picks, log_probs = result.picks.tolist(), result.log_probs.tolist()
    return [
        Token(
            id=pick[Pick.TOKEN],
            expert_log_prob=log_prob[LogProb.EXPERT],
            base_log_prob=log_prob[LogProb.BASE],
            expert_token=pick[Pick.EXPERT_TOKEN],
            valid_count=pick[Pick.VALID_COUNT],
            decoding_log_prob=log_prob[LogProb.DECODING],
        )
        for pick, log_prob in zip(picks, log_probs, strict=True)
    ]


def continuations(result: StepResult) -> dict[int, list[Continuation]]:
    """By emitting row, best first; rows that are no beams have none."""
    by_row: dict[int, list[Continuation]] = {}
    options, scores = result.options.tolist(), result.option_scores.tolist()
    for option, score in zip(options, scores, strict=True):
        row = option[Option.ROW]
        pick = result.picks[row]
        token = Token(
            id=option[Option.TOKEN],
            expert_log_prob=score[OptionScore.EXPERT],
            base_log_prob=score[OptionScore.BASE],
            expert_token=int(pick[Pick.EXPERT_TOKEN]),
            valid_count=int(pick[Pick.VALID_COUNT]),
        )
        by_row.setdefault(row, []).append(Continuation(token, score[OptionScore.RANKED]))
    return by_row
