"""Linear layers with the same input, and their adapters, as one product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cold_backend.adapters import Adapter
from cold_backend.lora import stack_pairs
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
    """

    ops: Ops
    weight: Tensor
    bias: Tensor | None
    a: list[Tensor]
    b: list[Tensor]
    scale: Tensor | None
    rank: Tensor | None
    widths: list[int]

    @classmethod
    def of(
        cls,
        layers: Sequence[nn.Linear],
        paths: Sequence[str],
        adapters: Sequence[Adapter],
        ops: Ops,
    ) -> Projection:
        """Packs layers and what the adapters have for them.

        Mutates: the weights of a layer that is alone.

        Args:
            layers: with the same input.
            paths: what adapters call them.
            adapters: by adapter index.
            ops: the kernels.
        """
        pairs = [[adapter.pairs.get(path) for adapter in adapters] for path in paths]
        stacks = []
        if any(pair for of_layer in pairs for pair in of_layer):
            stacks = [stack_pairs(p, x.weight) for p, x in zip(pairs, layers, strict=True)]
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
        )

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        """x [T, N], index [T] -> [T, M]"""
        return self.ops.project(
            x,
            self.weight,
            self.bias,
            a=self.a,
            b=self.b,
            scale=self.scale,
            rank=self.rank,
            index=index,
            widths=self.widths,
        )


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
