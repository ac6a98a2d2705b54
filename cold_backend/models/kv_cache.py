"""Keys and values of all running sequences, in slots of fixed size."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from cold_kernels.packing import PLAIN

# A layer by number; where a layer has several attentions, the second number tells them apart.
LayerKey = int | tuple[int, int]

_TOGETHER = 16  # tokens that can be copied whatever the order is


def padded(context: int) -> int:
    """Tokens that a slot of so many has room for: kernels want a multiple of 16."""
    return -(-context // _TOGETHER) * _TOGETHER


class KVCache:
    """Slots that each hold the keys and values of one sequence, layer by layer.

    A layer's memory is taken in full when the layer is first written to (the model's warm-up), so
    that a sequence which has a slot cannot run out of memory later. Layers may differ in shape.

    Args:
        slots: how many sequences fit.
        context: tokens that a slot holds.
    """

    def __init__(self, slots: int, context: int) -> None:
        self.slots = slots
        self.context = padded(context)
        self._layers: dict[LayerKey, tuple[Tensor, Tensor]] = {}
        self._by_token: list[Tensor] = []  # views [slots, n, context, W] of all keys and values

    @property
    def bytes(self) -> int:
        """Memory taken so far."""
        return sum(k.nbytes + v.nbytes for k, v in self._layers.values())

    def layer(
        self,
        number: LayerKey,
        heads: int,
        key_width: int,
        value_width: int,
        *,
        like: Tensor,
        values_by_token: Callable[[Tensor], Tensor] = PLAIN.values_by_token,
    ) -> tuple[Tensor, Tensor]:
        """A layer's keys and values, [slots, heads, context, width] each.

        Args:
            values_by_token: how the values are laid out, see `cold_kernels.packing.Packing`.

        Mutates: takes the memory at the first call, of the type and on the device of `like`.
        """
        if number not in self._layers:
            keys, values = self._room(heads, key_width, like), self._room(heads, value_width, like)
            self._layers[number] = keys, values
            self._by_token += (keys, values_by_token(values))
        return self._layers[number]

    def append(
        self, number: LayerKey, slot: int, start: int, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Writes n tokens behind the first `start` ones and returns all start + n.

        Shape: keys, values [kv_heads, n, D]. Returns views [kv_heads, start + n, D].
        Mutates: the slot.
        """
        heads, length, width = keys.shape
        stored = self.layer(number, heads, width, values.shape[2], like=keys)
        slot_keys, slot_values = (part[slot, :, : start + length] for part in stored)
        slot_keys[:, start:] = keys
        slot_values[:, start:] = values
        return slot_keys, slot_values

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Copies tokens from start up to end, exclusive, from one slot to another.

        Those before start must be the same in both.

        Mutates: the target.
        """
        tokens = slice(start // _TOGETHER * _TOGETHER, padded(end))
        for part in self._by_token:
            part[target, :, tokens] = part[source, :, tokens]

    def _room(self, heads: int, width: int, like: Tensor) -> Tensor:
        """Written to, so that the memory is really there."""
        return like.new_full((self.slots, heads, self.context, width), 0.0)
