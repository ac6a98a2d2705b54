"""The ops of whole rows of scores: signatures, and what fake tensors need to know of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Drawn(NamedTuple):
    """What `draw` finds for each row.

    Attributes:
        token: [R] int64, -1 if no score is above -inf.
        certain: [R] bool, whether the room was enough to know the token.
    """

    token: Tensor
    certain: Tensor


class Penalise(Protocol):
    def __call__(
        self,
        scores: Tensor,
        *,
        row: Tensor,
        token: Tensor,
        times: Tensor,
        repetition: Tensor,
        presence: Tensor,
        frequency: Tensor,
    ) -> None:
        """Applies the penalties of rows to the tokens that they have had.

        Semantics, for each i of n, with s = scores[row[i], token[i]] and the settings of that row:
            s = s / repetition if s > 0, else s * repetition (CTRL, arXiv 1909.05858);
            s = s - times[i] * frequency - (presence if times[i] > 0, else 0).
        A score of -inf stays there.

        Shape: scores [R, V]; row, token, times [n]; repetition, presence, frequency [R]. No token
            is there twice for a row.
        DType: float32; row, token, times int64.
        Mutates: scores.
        """
        ...


class Draw(Protocol):
    def __call__(
        self,
        scores: Tensor,
        *,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        min_p: Tensor,
        key: Tensor,
        room: int,
    ) -> Drawn:
        """Takes each row's best token, or samples one of those that its filters leave.

        Semantics, per row. Temperature 0: the best score, the filters mean nothing. Otherwise, with
        z = (score - max(score)) / temperature and the tokens in order of falling z, of equals the
        leftmost first, those stay
            that have exp(z) >= min_p;
            of these the first top_k, where it is not 0;
            of these each before which there is less than top_p of the sum of their exp(z);
        and of what stays, z + noise decides, with `noise.gumbel` of the row's key and the token.
        Of equal values the leftmost wins. A score of -inf is never taken; the best may be +inf.

        An implementation need not look at more than the `room` best scores of a row. Where more
        could have changed the token, `certain` is false and the token means nothing; with room for
        all tokens it is always true.

        Shape: scores [R, V]; temperature, top_k, top_p, min_p [R]; key [R, 2].
        DType: float32; top_k, key int32.
        Mutates: nothing. A row with a NaN means nothing.
        """
        ...


class LogProbs(Protocol):
    def __call__(self, logits: Tensor, token: Tensor) -> Tensor:
        """Log-probabilities of some tokens of each row: logit - log(sum(exp(logits))).

        Shape: logits [R, V]; token [R, k], none negative. Returns [R, k].
        DType: logits float16, bfloat16 or float32; token int64. Returns float32.
        Mutates: nothing.
        """
        ...


class Divergence(Protocol):
    def __call__(self, expert: Tensor, base: Tensor) -> Tensor:
        """How far the distributions of two rows of logits are from one another.

        Semantics, per row, with p = softmax(expert), q = softmax(base) and m = (p + q) / 2: the
        Jensen-Shannon divergence (sum(p * log2(p / m)) + sum(q * log2(q / m))) / 2, in bits: 0
        where they are equal, 1 where no token is in both. Source: AdaCAD, arXiv 2409.07394.

        Shape: expert, base [R, V]. Returns [R].
        DType: expert, base float16, bfloat16 or float32, both the same. Returns float32.
        Mutates: nothing. A row means nothing where a logit is NaN or +inf, or none is finite.
        """
        ...


SCHEMAS = {
    "divergence": "(Tensor expert, Tensor base) -> Tensor",
    "penalise": (
        "(Tensor(a!) scores, *, Tensor row, Tensor token, Tensor times, Tensor repetition, "
        "Tensor presence, Tensor frequency) -> ()"
    ),
    "draw": (
        "(Tensor scores, *, Tensor temperature, Tensor top_k, Tensor top_p, Tensor min_p, "
        "Tensor key, int room) -> (Tensor token, Tensor certain)"
    ),
    "log_probs": "(Tensor logits, Tensor token) -> Tensor",
}


def _fake_draw(scores: Tensor, **_: Any) -> tuple[Tensor, ...]:
    rows = scores.shape[0]
    return scores.new_empty(rows, dtype=torch.int64), scores.new_empty(rows, dtype=torch.bool)


def _fake_log_probs(logits: Tensor, token: Tensor) -> Tensor:
    return logits.new_empty(token.shape, dtype=torch.float32)


def _fake_penalise(_scores: Tensor, **_: Any) -> None:
    pass


def _fake_divergence(expert: Tensor, _base: Tensor) -> Tensor:
    return expert.new_empty(expert.shape[0], dtype=torch.float32)


FAKES: dict[str, Callable[..., Any]] = {
    "divergence": _fake_divergence,
    "penalise": _fake_penalise,
    "draw": _fake_draw,
    "log_probs": _fake_log_probs,
}
