"""A decoder layer's ops made of torch's own operators: the specification, and what devices use that
have no kernels of ours for them. Contracts: `layer_ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cold_kernels.blocks import places_of, positions_of, tables_of, write_tokens
from cold_kernels.ops import LoraApply


def implement(library: torch.library.Library, lora_apply: LoraApply) -> None:
    """Registers the ops of a decoder layer.

    Args:
        lora_apply: the implementation's own.
    """

    def project(
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
        y = functional.linear(x, weight, bias)
        if scale is not None and rank is not None:
            parts = y.split(list(widths), dim=1)
            for part, *of_segment in zip(parts, a, b, scale, rank, strict=True):
                names = ("a", "b", "scale", "rank")
                weights = dict(zip(names, of_segment, strict=True))
                lora_apply(part, x, **weights, index=index, strength=strength)
        return y

    ops: dict[str, Callable[..., Any]] = {
        "project": project,
        "add_rms_norm": add_rms_norm,
        "silu_multiply": silu_multiply,
        "attend": attend,
    }
    for name, op in ops.items():
        library.impl(name, op, "CompositeExplicitAutograd")


def add_rms_norm(hidden: Tensor, delta: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
    """See `layer_ops.AddRmsNorm`."""
    if delta is not None:
        hidden += delta
    return functional.rms_norm(hidden, weight.shape, weight, epsilon)


def silu_multiply(gate_up: Tensor) -> Tensor:
    """See `layer_ops.SiluMultiply`."""
    gate, up = gate_up.chunk(2, dim=1)
    return functional.silu(gate) * up


def attend(
    qkv: Tensor,
    cosine: Tensor,
    sine: Tensor,
    keys: Tensor,
    values: Tensor,
    rows: Tensor,
    blocks: Tensor,
    scale: float,
) -> Tensor:
    """See `layer_ops.Attend`."""
    heads, _, block, width = keys.shape
    tokens = len(qkv)
    query, key, value = qkv.split([qkv.shape[1] - 2 * heads * width, *[heads * width] * 2], dim=1)
    at, places = torch.stack((positions_of(rows), places_of(rows, blocks, block))).to(qkv.device)
    turns = cosine[at][:, None], sine[at][:, None]  # [T, 1, D / 2]
    query = _turned(query.reshape(tokens, -1, width), *turns)
    key = _turned(key.reshape(tokens, heads, width), *turns)
    write_tokens(keys, places, key.transpose(0, 1))
    write_tokens(values, places, value.reshape(tokens, heads, width).transpose(0, 1))
    tables = tables_of(rows, blocks, block, qkv.device)
    parts = []
    first = 0
    for (_, start, length), table in zip(rows.tolist(), tables, strict=True):
        end = start + length
        # One query sees all keys; those of a prompt's beginning are what is_causal is made for.
        # A mask bars torch's fastest kernels.
        seen = None
        if length > 1 and start:
            seen = torch.ones(length, end, dtype=torch.bool, device=qkv.device).tril(start)
        parts.append(
            functional.scaled_dot_product_attention(
                query[None, first : first + length].transpose(1, 2),  # [1, Q, n, D]
                table.read(keys, end)[None],
                table.read(values, end)[None],
                attn_mask=seen,
                is_causal=length > 1 and not start,
                scale=scale,
                enable_gqa=True,
            )[0].transpose(0, 1)
        )
        first += length
    return torch.cat(parts).reshape(tokens, -1)


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """x [T, heads, D] turned by the angles of its tokens."""
    a, b = x.float().chunk(2, dim=2)
    return torch.cat((a * cosine - b * sine, b * cosine + a * sine), dim=2).to(x.dtype)
