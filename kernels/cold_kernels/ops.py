"""The ops: one signature each, which every implementation keeps.

An implementation registers its ops with torch's dispatcher under a namespace of its own
(`torch.ops.cold_reference`, `cold_native`, `cold_triton_lang`), so that torch.compile and fake
tensors see through them.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from cold_kernels import choice_ops, layer_ops


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

    Where token is -1, the row's other values mean nothing.
    """

    token: Tensor
    score: Tensor
    expert_log_prob: Tensor
    base_log_prob: Tensor
    valid_count: Tensor
    expert_token: Tensor


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
        key: Tensor | None,
    ) -> Selection:
        """Picks each row's token from its contrast scores.

        Semantics, per row, with e = expert and a = base, in float32:
            COLD:   valid = {i : e_i >= max(e) + log(alpha)};
                    score_i = e_i + beta * (e_i - a_i) in the valid set, -inf elsewhere
            EXPERT: score = e
            BASE:   score = a
            token = argmax(score) if temperature is 0, else argmax((score - max(score)) /
            temperature + noise), which draws from softmax(score / temperature): noise is
            standard Gumbel noise, `noise.gumbel` of the row's key and the token.
        Of equal values the leftmost wins. A token whose logit is -inf is never picked; one that is
        valid and that the base has at -inf scores +inf unless beta is 0.
        e + beta * (e - a), unlike (1 + beta) * e - beta * a, is exact where e = a or beta = 0.
        Source: CoLD, arXiv 2505.14620; Algorithm 2 of arXiv 2309.09117.

        Shape: expert, base [R, V]; mode, alpha, beta, temperature [R]; key [R, 2], or None if no
            row samples.
        DType: expert, base float16, bfloat16 or float32, both the same; mode, key int32; the rest
            float32.
        Mutates: nothing. A row's logits that its mode does not read may hold anything.
        """
        ...


class ContrastScores(Protocol):
    def __call__(
        self, expert: Tensor, base: Tensor, *, mode: Tensor, alpha: Tensor, beta: Tensor
    ) -> Tensor:
        """Every token's contrast score, for rows that are shaped further before they pick.

        Semantics: the score of `ContrastSelect`, before temperature and noise; -inf for a token
        whose logit is. A row means nothing where a logit that it reads is NaN or +inf.

        Shape: expert, base [R, V]; mode, alpha, beta [R]. Returns [R, V].
        DType: expert, base float16, bfloat16 or float32, both the same; mode int32; alpha, beta
            and what is returned float32.
        Mutates: nothing. A row's logits that its mode does not read may hold anything.
        """
        ...


class LoraApply(Protocol):
    def __call__(
        self,
        y: Tensor,
        x: Tensor,
        *,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        rank: Tensor,
        index: Tensor,
        strength: Tensor,
    ) -> None:
        """Adds each token's adapters to a linear layer's output.

        Semantics, for each i of A in turn, per token t with l = index[i, t] and k < rank[l]:
            y[t] += scale[l] * strength[i, t] * sum_k (a[l, k] . x[t]) * b[l, k]
        Where an index is -1, or the adapter has rank 0, y keeps its bits. Products are accumulated
        in float32, and y is rounded once for each i. The two factors are multiplied first, in
        float32, so that a strength of 1 is the adapter as it is, to the bit.

        Shape: y [T, M]; x [T, N]; a [L, K, N]; b [L, K, M]; scale, rank [L]; index and strength,
            the adapters of each token and their factors, [A, T].
        DType: y, x, a, b float16, bfloat16 or float32, all the same; scale and strength float32;
            rank and index int32.
        Mutates: y.
        """
        ...


_SCHEMAS = {
    "contrast_select": (
        "(Tensor expert, Tensor base, *, Tensor mode, Tensor alpha, Tensor beta, "
        "Tensor temperature, Tensor? key) -> (Tensor token, Tensor score, "
        "Tensor expert_log_prob, Tensor base_log_prob, Tensor valid_count, Tensor expert_token)"
    ),
    "contrast_scores": (
        "(Tensor expert, Tensor base, *, Tensor mode, Tensor alpha, Tensor beta) -> Tensor"
    ),
    "lora_apply": (
        "(Tensor(a!) y, Tensor x, *, Tensor a, Tensor b, Tensor scale, Tensor rank, Tensor index, "
        "Tensor strength) -> ()"
    ),
}


def define(namespace: str) -> torch.library.Library:
    """Declares the ops in a namespace, with what fake tensors need to know of them.

    Returns:
        The library to register implementations with; the ops live as long as it does.
    """
    library = torch.library.Library(namespace, "DEF")
    for name, schema in {**_SCHEMAS, **choice_ops.SCHEMAS, **layer_ops.SCHEMAS}.items():
        library.define(name + schema)
    for name, fake in {**choice_ops.FAKES, **layer_ops.FAKES}.items():
        torch.library.register_fake(f"{namespace}::{name}", fake, lib=library)
    torch.library.register_fake(f"{namespace}::contrast_select", _empty_selection, lib=library)
    torch.library.register_fake(f"{namespace}::contrast_scores", _empty_scores, lib=library)
    torch.library.register_fake(f"{namespace}::lora_apply", _nothing, lib=library)
    return library


def _empty_selection(expert: Tensor, *_: Tensor, **__: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(empty_selection(expert))


def _empty_scores(expert: Tensor, *_: Tensor, **__: Tensor) -> Tensor:
    return expert.new_empty(expert.shape, dtype=torch.float32)


def _nothing(*_: Tensor, **__: Tensor) -> None:
    pass


def empty_selection(expert: Tensor) -> Selection:
    """An unfilled selection for expert [R, V], on its device."""
    rows = expert.shape[0]

    def empty(dtype: torch.dtype) -> Tensor:
        return expert.new_empty(rows, dtype=dtype)

    return Selection(
        token=empty(torch.int64),
        score=empty(torch.float32),
        expert_log_prob=empty(torch.float32),
        base_log_prob=empty(torch.float32),
        valid_count=empty(torch.int32),
        expert_token=empty(torch.int64),
    )
