"""Linear layers with the same input, and their adapters, as one product."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from cold_backend.adapters.adapter import Adapter
from cold_backend.models.batch import TokenAdapters
from cold_backend.models.lora import AdapterSet
from cold_kernels import Ops


@dataclass(frozen=True, slots=True)
class Projection:
    """Packed weights, side by side; see `cold_kernels.layer_ops.Project`.

    Attributes:
        ops: the kernels.
        weight: [M, N] of all layers, packed.
        bias: [M], or None.
        a: each layer's [L, K, N], packed; empty if no adapter changes any of them.
        b: each layer's [L, K, M'], packed.
        scale: [S, L] float32.
        rank: [S, L] int32.
        widths: each layer's outputs.
        paths: what adapters call the layers.
    """

    ops: Ops
    weight: Tensor
    bias: Tensor | None
    a: list[Tensor]
    b: list[Tensor]
    scale: Tensor | None
    rank: Tensor | None
    widths: list[int]
    paths: Sequence[str]

    @classmethod
    def of(
        cls,
        layers: Sequence[nn.Linear],
        paths: Sequence[str],
        adapters: AdapterSet,
        ops: Ops,
        *,
        is_head: bool = False,
    ) -> Projection:
        """Packs layers and what the adapters have for them.

        Mutates: the weights of a layer that is alone.

        Args:
            layers: with the same input.
            paths: what adapters call them.
            adapters: of the model.
            ops: the kernels.
            is_head: this is the output layer, see `adapters.loader.changeable`.
        """
        stacks = []
        if adapters.paths.intersection(paths) or (adapters.room and not is_head):
            stacks = [adapters.stack(path, x) for path, x in zip(paths, layers, strict=True)]
        packed = [ops.packing.pack_adapters(stack.a, stack.b) for stack in stacks]
        return cls(
            ops=ops,
            weight=ops.packing.pack(_joined([layer.weight for layer in layers])),
            bias=_joined_bias(layers),
            a=[a for a, _ in packed],
            b=[b for _, b in packed],
            scale=torch.stack([stack.scale for stack in stacks]) if stacks else None,
            rank=torch.stack([stack.rank for stack in stacks]) if stacks else None,
            widths=[layer.weight.shape[0] for layer in layers],
            paths=paths,
        )

    def put_adapter(self, index: int, adapter: Adapter) -> Iterator[None]:
        """Puts an adapter where there is room for one, layer by layer.

        Mutates: a, b, scale, rank.
        """
        if self.scale is None or self.rank is None:
            return
        count = self.scale.shape[1]
        for place, (path, a, b) in enumerate(zip(self.paths, self.a, self.b, strict=True)):
            pair = adapter.pairs.get(path)
            self.rank[place, index] = 0
            if pair is not None:
                ranks = a.numel() // (count * pair.a.shape[1])
                one = _widened(pair.a, ranks, a), _widened(pair.b.T, ranks, b)
                packed = self.ops.packing.pack_adapters(*one)
                for of_all, of_one in zip((a, b), packed, strict=True):
                    of_all.unflatten(0, (count, -1))[index] = of_one
                self.scale[place, index] = pair.scale
                self.rank[place, index] = pair.a.shape[0]
            yield

    def __call__(self, x: Tensor, adapters: TokenAdapters) -> Tensor:
        """x [T, N], adapters of the T tokens -> [T, M]"""
        return self.ops.project(
            x,
            self.weight,
            self.bias,
            a=self.a,
            b=self.b,
            scale=self.scale,
            rank=self.rank,
            index=adapters.index,
            strength=adapters.strength,
            widths=self.widths,
        )


def _widened(matrix: Tensor, rows: int, like: Tensor) -> Tensor:
    """[1, rows, n] of [m, n], with zeros below it."""
    matrix = matrix.to(like)
    missing = rows - len(matrix)
    return (functional.pad(matrix, (0, 0, 0, missing)) if missing else matrix)[None]


def _joined(weights: list[Tensor]) -> Tensor:
    # A large head alone is not copied.
    return weights[0] if len(weights) == 1 else torch.cat(weights)


def _joined_bias(layers: Sequence[nn.Linear]) -> Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    return torch.cat(
        [
            layer.weight.new_zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias
            for layer in layers
        ]
    )
