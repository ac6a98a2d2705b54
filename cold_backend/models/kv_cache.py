"""Keys and values of all contexts, in blocks that contexts take as they grow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cold_backend.contract import BLOCK_TOKENS
from cold_backend.models.large_pages import zeros
from cold_kernels.blocks import write_tokens

# A layer by number; where a layer has several attentions, the second number tells them apart.
LayerKey = int | tuple[int, int]


class KVCache:
    """Blocks that each hold the keys and values of BLOCK_TOKENS tokens, layer by layer.

    A layer's memory is taken in full when the layer is first written to (the model's warm-up), so
    that a context which has a block cannot run out of memory later. Layers may differ in shape.

    Args:
        blocks: how many there are.
    """

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self._layers: dict[LayerKey, tuple[Tensor, Tensor]] = {}

    @property
    def bytes(self) -> int:
        """Memory taken so far."""
        return sum(k.nbytes + v.nbytes for k, v in self._layers.values())

    def layer(
        self, number: LayerKey, heads: int, key_width: int, value_width: int, *, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A layer's keys and values, [heads, blocks, BLOCK_TOKENS, width] each.

        What is within a head's block is laid out as whoever writes to it likes.

        Mutates: takes the memory at the first call, of the type and on the device of `like`.
        """
        if number not in self._layers:
            shape = heads, self._blocks, BLOCK_TOKENS
            keys, values = (zeros((*shape, width), like) for width in (key_width, value_width))
            self._layers[number] = keys, values
        return self._layers[number]

    def write(
        self, number: LayerKey, places: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Puts T tokens into a layer; returns its keys and values, where they lie one by one.

        Shape: places [T], see `cold_kernels.blocks.places_of`; keys, values [kv_heads, T, width].
        Mutates: the blocks of these places.
        """
        heads, _, width = keys.shape
        stored = self.layer(number, heads, width, values.shape[2], like=keys)
        for pool, tokens in zip(stored, (keys, values), strict=True):
            write_tokens(pool, places, tokens)
        return stored

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copies blocks to others, in all layers; none is copied from and to.

        Mutates: the targets.
        """
        for stored in self._layers.values():
            for pool in stored:
                chosen = torch.tensor((sources, targets), device=pool.device)
                pool.index_copy_(1, chosen[1], pool.index_select(1, chosen[0]))
