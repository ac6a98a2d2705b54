"""Keys and values of all running sequences, in slots of fixed size."""

from __future__ import annotations

from torch import Tensor


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
        self.context = context
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def bytes(self) -> int:
        """Memory taken so far."""
        return sum(k.nbytes + v.nbytes for k, v in self._layers.values())

    def append(
        self, layer: int, slot: int, start: int, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Writes n tokens behind the first `start` ones and returns all start + n.

        Shape: keys, values [kv_heads, n, D]. Returns views [kv_heads, start + n, D].
        Mutates: the slot.
        """
        if layer not in self._layers:
            self._layers[layer] = (self._room_for(keys), self._room_for(values))
        end = start + keys.shape[1]
        slot_keys, slot_values = (stored[slot, :, :end] for stored in self._layers[layer])
        slot_keys[:, start:] = keys
        slot_values[:, start:] = values
        return slot_keys, slot_values

    def _room_for(self, like: Tensor) -> Tensor:
        """[slots, kv_heads, context, D]; written to, so that the memory is really there."""
        heads, _, width = like.shape
        return like.new_full((self.slots, heads, self.context, width), 0.0)
