"""Attention over packed rows and KV-cache slots, plugged into transformers' models.

A forward runs all tokens of a step as one packed row. Everything but attention treats tokens
independently; attention is done here, sequence by sequence, against the sequence's slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from cold_backend.kv_cache import KVCache

ATTENTION_NAME = "cold_packed"


@dataclass(frozen=True, slots=True)
class PackedRow:
    """One sequence's tokens within a forward.

    Attributes:
        slot: KV-cache slot.
        start: tokens that the slot holds already.
        tokens: where the row's tokens are in the packed forward.
    """

    slot: int
    start: int
    tokens: slice

    @property
    def end(self) -> int:
        """Tokens that the slot holds afterwards."""
        return self.start + self.tokens.stop - self.tokens.start


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """What attention needs to know of a forward; passed through the model as a keyword."""

    cache: KVCache
    rows: tuple[PackedRow, ...]


def packed_rows(spans: Tensor) -> tuple[PackedRow, ...]:
    """From a batch's spans, [R, 3]."""
    rows = []
    first = 0
    for slot, start, length in spans.tolist():
        rows.append(PackedRow(slot, start, slice(first, first + length)))
        first += length
    return tuple(rows)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: PackedBatch,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of every row against its own slot, as transformers calls it.

    Shape: query [1, heads, T, D]; key, value [1, kv_heads, T, D]. Returns [1, T, heads, D].
    Mutates: the cache, which receives key and value.

    Raises:
        NotImplementedError: the model uses attention sinks.
    """
    if s_aux is not None:
        raise NotImplementedError("attention sinks are not supported")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer: int = module.layer_idx  # type: ignore[assignment]
    parts = []
    for row in packed.rows:
        keys, values = packed.cache.append(
            layer, row.slot, row.start, key[0, :, row.tokens], value[0, :, row.tokens]
        )
        parts.append(
            _attend_row(query[0, :, row.tokens], keys, values, scale, sliding_window, softcap)
        )
    return torch.cat(parts, dim=1).transpose(0, 1)[None], None


def _attend_row(
    query: Tensor,  # [heads, n, D], the last n positions
    keys: Tensor,  # [kv_heads, end, D]
    values: Tensor,  # [kv_heads, end, D]
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """[heads, n, D]"""
    heads, length, width = query.shape
    kv_heads, end, _ = keys.shape
    if window is not None:
        # The first of the new tokens sees furthest back.
        first = max(0, end - length - window + 1)
        keys, values = keys[:, first:], values[:, first:]
    # The query heads of a group share their keys: as more queries of one head, nothing is copied.
    grouped = query.reshape(kv_heads, heads // kv_heads * length, width)
    mask = _mask(length, keys.shape[1], heads // kv_heads, window, query.device)
    if softcap is None:
        out = functional.scaled_dot_product_attention(
            grouped[None], keys[None], values[None], attn_mask=mask, scale=scale
        )[0]
    else:
        out = _softcapped(grouped, keys, values, mask, scale, softcap)
    return out.reshape(heads, length, -1)


def _mask(
    length: int, keys: int, group: int, window: int | None, device: torch.device
) -> Tensor | None:
    """[group * n, keys] booleans, true where a query may look; None where it may everywhere."""
    if length == 1:
        return None
    at = torch.arange(keys - length, keys, device=device)[:, None]  # position of each query
    seen = torch.arange(keys, device=device)[None]
    mask = seen <= at
    if window is not None:
        mask &= seen > at - window
    return mask.repeat(group, 1)


def _softcapped(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float, softcap: float
) -> Tensor:
    """Attention whose scores are squashed by tanh, as in Gemma 2 (arXiv 2408.00118)."""
    scores = softcap * torch.tanh(query @ keys.transpose(1, 2) * scale / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.float().softmax(-1).to(query.dtype) @ values


AttentionInterface.register(ATTENTION_NAME, packed_attention)
