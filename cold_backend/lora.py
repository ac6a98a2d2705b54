"""LoRA inside a model: many adapters side by side, chosen per token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cold_backend.adapters import Adapter, LoraPair
from cold_kernels import Ops


@dataclass(frozen=True, slots=True)
class LoraStack:
    """The low-rank pairs that adapters have for one layer, padded with zeros to one rank.

    Attributes:
        a: [L, K, N].
        b: [L, K, M].
        scale: [L] float32.
        rank: [L] int32, 0 where an adapter leaves the layer alone.
    """

    a: Tensor
    b: Tensor
    scale: Tensor
    rank: Tensor


def stack_pairs(pairs: Sequence[LoraPair | None], like: Tensor) -> LoraStack:
    """Stacks each adapter's pair for a layer.

    Args:
        pairs: None where an adapter leaves the layer alone.
        like: the layer's weight, [M, N] (or [N, M] in GPT-2), whose type and device are taken.
    """
    ranks = [0 if pair is None else pair.a.shape[0] for pair in pairs]
    scales = [0.0 if pair is None else pair.scale for pair in pairs]
    inputs = next((pair.a.shape[1] for pair in pairs if pair), like.shape[1])
    outputs = next((pair.b.shape[0] for pair in pairs if pair), like.shape[0])
    a = like.new_zeros((len(pairs), max(1, *ranks), inputs))
    b = like.new_zeros((len(pairs), max(1, *ranks), outputs))
    for i, pair in enumerate(pairs):
        if pair is not None:
            a[i, : ranks[i]] = pair.a
            b[i, : ranks[i]] = pair.b.T
    return LoraStack(
        a=a,
        b=b,
        scale=torch.tensor(scales, dtype=torch.float32, device=like.device),
        rank=torch.tensor(ranks, dtype=torch.int32, device=like.device),
    )


@dataclass
class LoraBank:
    """The adapters of one model, and which of them each token of the current forward uses.

    Attributes:
        ops: the kernels.
        index: [T] int32 adapter index of each token, -1 for none; set before a forward.
        last_index: [E] the same of the tokens whose logits are wanted.
    """

    ops: Ops
    index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int32))
    last_index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int32))


def attach_adapters(model: nn.Module, adapters: Sequence[Adapter], ops: Ops) -> LoraBank:
    """Wraps the layers that any of the adapters changes.

    The adapters must fit the model (`check_fit`). An adapter's index is its place in the list.

    Mutates: the model's modules.
    """
    bank = LoraBank(ops)
    head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    for path in sorted({path for adapter in adapters for path in adapter.pairs}):
        inner = model.get_submodule(path)
        pairs = [adapter.pairs.get(path) for adapter in adapters]
        kind = LoraEmbedding if isinstance(inner, nn.Embedding) else LoraLinear
        parent, _, name = path.rpartition(".")
        layer = kind(inner, pairs, bank, is_head=inner is head)
        setattr(model.get_submodule(parent), name, layer)
    return bank


class _LoraLayer(nn.Module):
    """A layer and the low-rank pairs that adapters have for it, stacked and zero-padded.

    Args:
        inner: the layer.
        pairs: each adapter's pair for it, None where an adapter leaves it alone.
        bank: says which adapter a token uses.
        is_head: the layer is the output layer, which sees the last tokens alone.
    """

    a: Tensor
    b: Tensor
    scale: Tensor
    rank: Tensor

    def __init__(
        self, inner: nn.Module, pairs: list[LoraPair | None], bank: LoraBank, *, is_head: bool
    ) -> None:
        super().__init__()
        self.inner = inner
        self._bank = bank
        self._is_head = is_head
        stack = stack_pairs(pairs, inner.weight)  # type: ignore[arg-type]
        for name in ("a", "b", "scale", "rank"):
            self.register_buffer(name, getattr(stack, name), persistent=False)

    @property
    def weight(self) -> Tensor:
        """The wrapped layer's weight, which some models read directly."""
        return self.inner.weight  # type: ignore[return-value]


class LoraLinear(_LoraLayer):
    """A linear layer (or GPT-2's Conv1D) plus the adapter of each token."""

    def forward(self, x: Tensor) -> Tensor:
        """x [1, T, N] -> [1, T, M]; for the output layer E in the place of T."""
        y: Tensor = self.inner(x)
        bank = self._bank
        index = bank.last_index if self._is_head else bank.index
        bank.ops.lora_apply(
            y[0], x[0], a=self.a, b=self.b, scale=self.scale, rank=self.rank, index=index
        )
        return y


class LoraEmbedding(_LoraLayer):
    """An embedding plus the adapter of each token."""

    def forward(self, ids: Tensor) -> Tensor:
        """ids [1, T] -> [1, T, M]"""
        y: Tensor = self.inner(ids)
        index = self._bank.index
        for adapter in sorted(set(index.tolist())):
            if adapter >= 0:
                tokens = (index == adapter).nonzero()[:, 0]
                shrunk = self.a[adapter][:, ids[0, tokens]].T.float()  # [t, K]
                delta = self.scale[adapter] * (shrunk @ self.b[adapter].float())  # [t, M]
                y[0, tokens] = (y[0, tokens].float() + delta).to(y.dtype)
        return y
