"""Attention over packed rows and blocks of the KV cache, plugged into transformers' models.

A forward runs all tokens of a step as one packed row. Everything but attention treats tokens
independently; attention is done here, sequence by sequence, over the sequence's blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from cold_backend.contract import BLOCK_TOKENS
from cold_backend.models.batch import Batch
from cold_backend.models.kv_cache import KVCache
from cold_backend.models.masks import MaskRule, keep_rule, window_rule
from cold_backend.refusal import UnsupportedError
from cold_kernels.blocks import BlockTable, places_of, tables_of

ATTENTION_NAME = "cold_packed"


# Keywords that change nothing here: positions are in the keys already, and masks are rules.
_UNREAD = frozenset(("position_ids", "cache_position", "logits_to_keep"))


@dataclass(frozen=True, slots=True)
class PackedRow:
    """One sequence's tokens within a forward.

    Attributes:
        table: its blocks of the KV cache.
        start: tokens that these hold already.
        tokens: where the row's tokens are in the packed forward.
    """

    table: BlockTable
    start: int
    tokens: slice

    @property
    def end(self) -> int:
        """Tokens that the blocks hold afterwards."""
        return self.start + self.tokens.stop - self.tokens.start


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """What attention needs to know of a forward.

    Attributes:
        cache: keys and values of all sequences.
        rows: of this forward.
        places: [T] of all rows' tokens, see `cold_kernels.blocks.places_of`.
        calls: how often each layer has asked for attention; some models have several in a layer.
    """

    cache: KVCache
    rows: tuple[PackedRow, ...]
    places: Tensor
    calls: Counter[int] = field(default_factory=Counter)


# The forward that runs. Not a keyword: not every model hands those on to its attention.
_running: ContextVar[PackedBatch] = ContextVar("running")


@contextmanager
def running(batch: PackedBatch) -> Iterator[None]:
    """Says which forward the attention of a model belongs to, within the block."""
    token = _running.set(batch)
    try:
        yield
    finally:
        _running.reset(token)


class PackedState:
    """Stands where a model's code expects its cache: it looks empty and keeps nothing.

    Keys and values are kept by `packed_attention`. A model that asks for more than them has layers
    with a state of their own.
    """

    is_compileable = False
    is_initialized = False
    is_sliding: tuple[bool, ...] = ()

    def update(self, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keys and values as they came: attention adds those before."""
        return key, value

    def get_seq_length(self, *_: Any) -> int:
        """Tokens that a model should think it has seen: positions come with each token."""
        return 0

    def get_query_offset(self, *_: Any) -> int:
        """The same, for masks."""
        return 0

    def get_mask_sizes(self, query_length: int, *_: Any) -> tuple[int, int]:
        """Width and start of a mask; rules do not depend on them."""
        return query_length, 0

    def __getattr__(self, name: str) -> Any:
        raise _StateError(f"layers that keep a state of their own ({name}) are not supported")


class _StateError(UnsupportedError, AttributeError):
    """For the model's code no such attribute, for ours a reason to refuse the model."""


def packed_batch(batch: Batch, cache: KVCache) -> PackedBatch:
    """What attention needs to know of a batch."""
    device = batch.tokens.device
    tables = tables_of(batch.spans, batch.blocks, BLOCK_TOKENS, device)
    rows = []
    first = 0
    for table, (_, start, length) in zip(tables, batch.spans.tolist(), strict=True):
        rows.append(PackedRow(table, start, slice(first, first + length)))
        first += length
    places = places_of(batch.spans, batch.blocks, BLOCK_TOKENS).to(device)
    return PackedBatch(cache, tuple(rows), places)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: MaskRule | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of every row over its own blocks, as transformers calls it.

    Shape: query [1, heads, T, D]; key, value [1, kv_heads, T, D']. Returns [1, T, heads, D'].
    Mutates: the cache, which receives key and value.

    Raises:
        UnsupportedError: the model wants more of attention than is done here.
    """
    rule = _rule(module, query, attention_mask, sliding_window, others)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    packed = _running.get()
    layer: int = module.layer_idx  # type: ignore[assignment]
    place = layer, packed.calls[layer]
    packed.calls[layer] += 1
    stored = packed.cache.write(place, packed.places, key[0], value[0])
    out = query.new_empty((query.shape[2], query.shape[1], value.shape[3]))  # [T, heads, D']
    for row in packed.rows:
        keys, values = (row.table.read(pool, row.end) for pool in stored)
        first, mask = rule.part(row.start, row.end)
        attended = _attend_row(
            query[0, :, row.tokens], keys[:, first:], values[:, first:], mask, scale, softcap, s_aux
        )
        out[row.tokens] = attended.transpose(0, 1)
    return out[None], None


def _rule(
    module: nn.Module,
    query: Tensor,
    mask: MaskRule | None,
    window: int | None,
    others: dict[str, Any],
) -> MaskRule:
    """The mask that the model gave, or what its attention does without one."""
    for name, value in others.items():
        if isinstance(value, Tensor) and name not in _UNREAD:
            raise UnsupportedError(f"attention with {name} is not supported")
    if isinstance(mask, MaskRule):
        return mask
    if mask is not None:
        raise UnsupportedError("a mask that the model makes by itself is not supported")
    causal = others.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        raise UnsupportedError("attention that is not causal is not supported")
    return window_rule(window, query.device)


def _attend_row(
    query: Tensor,  # [heads, n, D], the last n positions
    keys: Tensor,  # [kv_heads, seen, D]
    values: Tensor,  # [kv_heads, seen, D']
    mask: Tensor | None,  # [n, seen]
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,  # [heads]
) -> Tensor:
    """[heads, n, D']"""
    heads, length, width = query.shape
    kv_heads = keys.shape[0]
    # The query heads of a group share their keys: as more queries of one head, nothing is copied.
    group = heads // kv_heads
    grouped = query.reshape(kv_heads, group * length, width)
    if mask is not None:
        mask = mask.to(query.device).repeat(group, 1)
    if softcap is None and sinks is None:
        out = functional.scaled_dot_product_attention(
            grouped[None], keys[None], values[None], attn_mask=mask, scale=scale
        )[0]
    else:
        if sinks is not None:
            sinks = sinks.reshape(kv_heads, group, 1).expand(-1, -1, length).flatten(1)
        out = _attend_by_scores(grouped, keys, values, mask, scale, softcap, sinks)
    return out.reshape(heads, length, -1)


def _attend_by_scores(
    query: Tensor,  # [kv_heads, n, D]
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,  # [kv_heads, n]
) -> Tensor:
    """Attention whose scores are changed before the softmax.

    A soft cap squashes them by tanh, as in Gemma 2 (arXiv 2408.00118); a sink takes a part of the
    weight and gives nothing for it (arXiv 2309.17453).
    """
    scores = (query @ keys.transpose(1, 2) * scale).float()
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is not None:
        scores = torch.cat([scores, sinks[..., None].float()], dim=-1)
    weights = scores.softmax(-1).to(query.dtype)
    return weights[..., : keys.shape[1]] @ values


AttentionInterface.register(ATTENTION_NAME, packed_attention)
AttentionMaskInterface.register(ATTENTION_NAME, keep_rule)
