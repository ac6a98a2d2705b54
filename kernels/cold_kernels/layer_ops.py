"""The ops of a decoder layer, whose rows belong to many sequences and adapters.

They exist so that a step costs little more than reading the weights. Matrices are packed first,
by each implementation in its own way (`packing.Packing`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor


class Project(Protocol):
    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        a: Sequence[Tensor],
        b: Sequence[Tensor],
        scale: Tensor | None,
        rank: Tensor | None,
        index: Tensor,
        strength: Tensor,
        widths: Sequence[int],
    ) -> Tensor:
        """Several linear layers with the same input, side by side, and each token's adapters.

        Semantics, per token t, for the columns of segment s:
            y[t] = weight @ x[t] + bias, and for each i of A, with l = index[i, t], k < rank[s, l],
                   + scale[s, l] * strength[i, t] * sum_k (a[s][l, k] . x[t]) * b[s][l, k]
        without the terms whose index is -1 or whose rank is 0; such rows do not depend on the
        others' adapters. Accumulated in float32; scale * strength * (a . x) and y are rounded to
        x's dtype. The two factors are multiplied first, so that a strength of 1 changes no bit.

        Shape: x [T, N]; weight [M, N]; bias [M] or None; for each of S segments a [L, K, N] and
            b [L, K, M'], none if no layer has adapters; scale, rank [S, L] or None; index and
            strength, the adapters of each token and their factors, [A, T]; widths: every segment's
            M', M in all; several are multiples of 16. N is even. weight, a and b are packed.
            Returns [T, M].
        DType: x, weight, bias, a, b float16, bfloat16 or float32, all the same; scale and
            strength float32; rank and index int32. index and strength are not read where a and b
            are empty.
        Mutates: nothing.
        """
        ...


class AddRmsNorm(Protocol):
    def __call__(
        self, hidden: Tensor, delta: Tensor | None, weight: Tensor, epsilon: float
    ) -> Tensor:
        """Adds a layer's output to the residual stream, and normalises it for the next layer.

        Semantics: hidden += delta; y = hidden / sqrt(mean(hidden^2) + epsilon) * weight, in
        float32, with hidden rounded before and y after. Source: RMSNorm, arXiv 1910.07467.

        Shape: hidden, delta [T, H]; weight [H]. Returns [T, H].
        DType: float16, bfloat16 or float32, all the same.
        Mutates: hidden, unless delta is None.
        """
        ...


class SiluMultiply(Protocol):
    def __call__(self, gate_up: Tensor) -> Tensor:
        """The gated activation, y = gate * sigmoid(gate) * up (SwiGLU, arXiv 2002.05202).

        Shape: gate_up [T, 2 * I], gate first. Returns [T, I].
        DType: float16, bfloat16 or float32; computed in float32.
        Mutates: nothing.
        """
        ...


class Attend(Protocol):
    def __call__(
        self,
        qkv: Tensor,
        cosine: Tensor,
        sine: Tensor,
        keys: Tensor,
        values: Tensor,
        rows: Tensor,
        blocks: Tensor,
        scale: float,
    ) -> Tensor:
        """Causal attention of packed rows, each over the blocks of its own sequence.

        Semantics: queries and keys are turned by the angles of their positions (rotary embedding,
        arXiv 2104.09864, halves as in GPT-NeoX); keys and values go into the row's blocks, whose
        i-th one holds the tokens from 16 * i on; a query attends to these up to its own position,
        softmax(scale * q . k) in float32. Query heads share key heads in equal groups
        (arXiv 2305.13245). What a block's number is changes no bit.

        Shape: qkv [T, (Q + 2 * G) * D], queries, keys, values; cosine, sine [C, D / 2], C beyond
            every position; keys, values [G, N, 16, D], D a multiple of 16, of N blocks, within a
            head's block in an order of the implementation's own; rows [R, 3] of where the row's
            block numbers begin in `blocks`, tokens that they hold already, tokens of this row;
            blocks [B] below N, of each row as many as its tokens need. Returns [T, Q * D].
        DType: qkv, keys, values float16, bfloat16 or float32, all the same; cosine, sine float32;
            rows, blocks int32, in the CPU's memory.
        Mutates: keys, values. Rows may share blocks that no row writes to.
        """
        ...


SCHEMAS = {
    "project": (
        "(Tensor x, Tensor weight, Tensor? bias, *, Tensor[] a, Tensor[] b, Tensor? scale, "
        "Tensor? rank, Tensor index, Tensor strength, int[] widths) -> Tensor"
    ),
    "add_rms_norm": ("(Tensor(a!) hidden, Tensor? delta, Tensor weight, float epsilon) -> Tensor"),
    "silu_multiply": "(Tensor gate_up) -> Tensor",
    "attend": (
        "(Tensor qkv, Tensor cosine, Tensor sine, Tensor(a!) keys, Tensor(b!) values, Tensor rows, "
        "Tensor blocks, float scale) -> Tensor"
    ),
}


def _fake_project(
    x: Tensor, _weight: Tensor, _bias: Tensor | None, *, widths: Sequence[int], **_: object
) -> Tensor:
    return x.new_empty((x.shape[0], sum(widths)))


def _fake_add_rms_norm(hidden: Tensor, *_: Tensor | float | None) -> Tensor:
    return hidden.new_empty(hidden.shape)


def _fake_silu_multiply(gate_up: Tensor) -> Tensor:
    return gate_up.new_empty((gate_up.shape[0], gate_up.shape[1] // 2))


def _fake_attend(
    qkv: Tensor, _cosine: Tensor, _sine: Tensor, keys: Tensor, *_: Tensor | float
) -> Tensor:
    heads, width = keys.shape[0], keys.shape[3]
    return qkv.new_empty((qkv.shape[0], qkv.shape[1] - 2 * heads * width))


FAKES: dict[str, Callable[..., Tensor]] = {
    "project": _fake_project,
    "add_rms_norm": _fake_add_rms_norm,
    "silu_multiply": _fake_silu_multiply,
    "attend": _fake_attend,
}
