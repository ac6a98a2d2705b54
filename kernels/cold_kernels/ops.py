"""The signatures that every implementation of the ops keeps."""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

from torch import Tensor


class Mode(enum.IntEnum):
    """How a row picks its token."""

    COLD = 0  # expert against base
    EXPERT = 1  # the expert's logits alone
    BASE = 2  # the base's logits alone


class Selection(NamedTuple):
    """What `contrast_select` finds for each row.

    Attributes:
        token: [R] int64, the picked token; -1 if a logit that the row reads is NaN or +inf, or
            if none is finite.
        score: [R] float32, the token's score before temperature and noise.
        expert_log_prob: [R] float32, NaN for rows in base mode.
        base_log_prob: [R] float32, NaN for rows in expert mode.
        valid_count: [R] int32, size of the valid set (V in base mode).
        expert_token: [R] int64, the expert's own best token, -1 for rows in base mode.
    """

    token: Tensor
    score: Tensor
    expert_log_prob: Tensor
    base_log_prob: Tensor
    valid_count: Tensor
    expert_token: Tensor


class ContrastScores(Protocol):
    def __call__(
        self, expert: Tensor, base: Tensor, *, mode: Tensor, alpha: Tensor, beta: Tensor
    ) -> Tensor:
        """Scores of all tokens, for rows whose scores are shaped further.

        Semantics, per row, with e = expert and a = base:
            COLD:   valid = {i : e_i >= max(e) + log(alpha)};
                    score_i = e_i + beta * (e_i - a_i) in the valid set, -inf elsewhere
            EXPERT: score = e
            BASE:   score = a
        e + beta * (e - a), unlike (1 + beta) * e - beta * a, is exact where e = a or beta = 0.
        Source: CoLD, arXiv 2505.14620; Algorithm 2 of arXiv 2309.09117.

        Shape: expert, base [R, V]; mode, alpha, beta [R]. Returns [R, V].
        DType: expert, base float16, bfloat16 or float32; mode int32; alpha, beta float32.
            Returns float32.
        Mutates: nothing. A row's logits that its mode does not read may hold anything.
        """
        ...


class ContrastSelect(Protocol):
    def __call__(
        self,
        expert: Tensor,
        base: Tensor,
        *,
        mode: Tensor,
        alpha: Tensor,
        beta: Tensor,
        temperature: Tensor,
        noise: Tensor | None,
    ) -> Selection:
        """Picks each row's token from its contrast scores.

        Semantics, per row: token = argmax(score) if temperature is 0, else
        argmax(score / temperature + noise); with standard Gumbel noise that draws from
        softmax(score / temperature). Of equal values the leftmost wins. A token whose logit is
        -inf is never picked.

        Shape: as ContrastScores; temperature [R]; noise [R, V], or None if no row samples.
        DType: as ContrastScores; temperature, noise float32.
        Mutates: nothing.
        """
        ...


class LoraApply(Protocol):
    def __call__(
        self, y: Tensor, x: Tensor, *, a: Tensor, b: Tensor, scale: Tensor, index: Tensor
    ) -> None:
        """Adds each token's adapter to a linear layer's output.

        Semantics, per token t with l = index[t]: y[t] += scale[l] * (b[l] @ (a[l] @ x[t])); a
        token with index -1 keeps its bits. The product is accumulated in float32 and rounded once.

        Shape: y [T, M]; x [T, N]; a [L, K, N]; b [L, M, K]; scale [L]; index [T].
        DType: y, x, a, b float16, bfloat16 or float32; scale float32; index int32.
        Mutates: y.
        """
        ...
