"""LoRA inside a model: many adapters side by side, chosen per token."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cold_backend.adapters import Adapter, LoraPair
from cold_kernels import Ops


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


def attach_adapters(model: nn.Module, adapters: list[Adapter], ops: Ops) -> LoraBank:
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

    a: Tensor  # [L, K, N]
    b: Tensor  # [L, K, M]
    scale: Tensor  # [L] float32
    rank: Tensor  # [L] int32, 0 where an adapter leaves the layer alone

    def __init__(
        self, inner: nn.Module, pairs: list[LoraPair | None], bank: LoraBank, *, is_head: bool
    ) -> None:
        super().__init__()
        self.inner = inner
        self._bank = bank
        self._is_head = is_head
        weight: Tensor = inner.weight  # type: ignore[assignment]
        present = [pair for pair in pairs if pair is not None]
        ranks = [0 if pair is None else pair.a.shape[0] for pair in pairs]
        scales = [0.0 if pair is None else pair.scale for pair in pairs]
        a = weight.new_zeros((len(pairs), max(ranks), present[0].a.shape[1]))
        b = weight.new_zeros((len(pairs), max(ranks), present[0].b.shape[0]))
        for i, pair in enumerate(pairs):
            if pair is not None:
                a[i, : ranks[i]] = pair.a
                b[i, : ranks[i]] = pair.b.T
        scale = torch.tensor(scales, dtype=torch.float32, device=weight.device)
        rank = torch.tensor(ranks, dtype=torch.int32, device=weight.device)
        for name, tensor in {"a": a, "b": b, "scale": scale, "rank": rank}.items():
            self.register_buffer(name, tensor, persistent=False)

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
