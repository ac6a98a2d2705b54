"""What a step found, as objects: the token of each choice, and the continuations of each beam."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cold_backend.contract import PICK, StepResult


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token beside the picked one, or that one itself, and its log-probability."""

    id: int
    log_prob: float


@dataclass(frozen=True, slots=True)
class Token:
    """A picked token and what the step found out about it.

    Attributes:
        expert_log_prob: natural logarithm; None where the expert was not read.
        base_log_prob: likewise for the base.
        expert_token: the expert's own best; None where it was not read.
        valid_count: size of the valid set.
        decoding_log_prob: of a forced token under its decoding, see `decoding.forced`.
        alternatives: the tokens that the expert, or the base where no expert was read, finds most
            probable by itself, best first, as many as were asked for.
    """

    id: int
    expert_log_prob: float | None
    base_log_prob: float | None
    expert_token: int | None
    valid_count: int
    decoding_log_prob: float | None = None
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Continuation:
    """A token that may follow a beam, and its log-probability as beams are ranked by it."""

    token: Token
    log_prob: float


def picked_tokens(result: StepResult) -> list[Token | None]:
    """The token of each choice, in order; None where the model's logits were not finite."""
    columns = (result.picks[name].tolist() for name in PICK.names or ())
    beside = _alternatives(result)
    return [
        Token(
            token,
            expert_log_prob=_known(expert),
            base_log_prob=_known(base),
            expert_token=_index(best),
            valid_count=valid,
            decoding_log_prob=_known(decoding),
            alternatives=(*beside.get(choice, ()),),
        )
        if token >= 0
        else None
        for choice, (token, best, valid, expert, base, decoding) in enumerate(
            zip(*columns, strict=True)
        )
    ]


def continuations(result: StepResult) -> dict[int, list[Continuation]]:
    """By choice, best first; choices that are no beam's have none."""
    by_choice: dict[int, list[Continuation]] = {}
    for found in result.candidates:
        choice = int(found["choice"])
        pick = result.picks[choice]
        token = Token(
            id=int(found["token"]),
            expert_log_prob=_known(float(found["expert_log_prob"])),
            base_log_prob=_known(float(found["base_log_prob"])),
            expert_token=_index(int(pick["expert_token"])),
            valid_count=int(pick["valid_count"]),
        )
        by_choice.setdefault(choice, []).append(Continuation(token, float(found["log_prob"])))
    return by_choice


def _alternatives(result: StepResult) -> dict[int, list[Alternative]]:
    """By choice, best first."""
    by_choice: dict[int, list[Alternative]] = {}
    for choice, token, log_prob in result.alternatives.tolist():
        by_choice.setdefault(choice, []).append(Alternative(token, log_prob))
    return by_choice


def _known(log_prob: float) -> float | None:
    return None if math.isnan(log_prob) else log_prob


def _index(token: int) -> int | None:
    return None if token < 0 else token
