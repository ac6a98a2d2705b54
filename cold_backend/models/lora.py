"""LoRA inside a model: many adapters side by side, chosen per token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cold_backend.adapters.adapter import Adapter, LoraPair, features
from cold_backend.adapters.loader import changeable
from cold_backend.contract import NONE
from cold_backend.models.batch import TokenAdapters
from cold_backend.refusal import UnsupportedError
from cold_kernels import Ops


@dataclass(frozen=True, slots=True)
class AdapterSet:
    """The adapters of a model by index: those that stay, then room for others.

    Attributes:
        fixed: from the start to the end.
        room: how many more may be put in while the model runs (`Network.put_adapter`).
        max_rank: of those.
    """

    fixed: Sequence[Adapter] = ()
    room: int = 0
    max_rank: int = 0

    def __len__(self) -> int:
        return len(self.fixed) + self.room

    @property
    def paths(self) -> set[str]:
        """Layers that the fixed ones change."""
        return {path for adapter in self.fixed for path in adapter.pairs}

    def stack(self, path: str, layer: nn.Module) -> LoraStack:
        """The pairs for one layer."""
        pairs = [adapter.pairs.get(path) for adapter in self.fixed]
        return stack_pairs([*pairs, *[None] * self.room], layer, rank=self.max_rank)


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

    @classmethod
    def empty(cls, adapters: int, rank: int, features: tuple[int, int], like: Tensor) -> LoraStack:
        """Without any pair.

        Args:
            adapters: L.
            rank: K.
            features: of the layer, (M, N).
            like: whose type and device are taken.
        """
        outputs, inputs = features
        return cls(
            a=like.new_zeros((adapters, rank, inputs)),
            b=like.new_zeros((adapters, rank, outputs)),
            scale=like.new_zeros(adapters, dtype=torch.float32),
            rank=like.new_zeros(adapters, dtype=torch.int32),
        )

    def put(self, index: int, pair: LoraPair | None) -> None:
        """Replaces what an adapter has for the layer. Mutates: the stack."""
        rank = 0 if pair is None else pair.a.shape[0]
        self.rank[index] = rank
        if pair is not None:
            self.a[index].zero_()[:rank] = pair.a
            self.b[index].zero_()[:rank] = pair.b.T
            self.scale[index] = pair.scale


def stack_pairs(pairs: Sequence[LoraPair | None], layer: nn.Module, *, rank: int = 0) -> LoraStack:
    """Stacks each adapter's pair for a layer.

    Args:
        pairs: None where an adapter leaves the layer alone.
        layer: whose weight's sizes, type and device are taken.
        rank: K is at least this.
    """
    weight: Tensor = layer.weight  # type: ignore[assignment]
    ranks = max(1, rank, *(pair.a.shape[0] for pair in pairs if pair))
    stack = LoraStack.empty(len(pairs), ranks, features(layer, weight), weight)
    for index, pair in enumerate(pairs):
        stack.put(index, pair)
    return stack


def _of_no_tokens() -> TokenAdapters:
    return TokenAdapters(torch.empty((1, 0), dtype=torch.int32), torch.empty((1, 0)))


@dataclass
class LoraBank:
    """The adapters of one model, and which of them the tokens of the current forward use.

    Attributes:
        ops: the kernels.
        layers: the wrapped layers by path.
        tokens: the adapters of the T tokens; set before a forward.
        last: those of the E tokens whose logits are wanted.
    """

    ops: Ops
    layers: dict[str, _LoraLayer] = field(default_factory=dict)
    tokens: TokenAdapters = field(default_factory=_of_no_tokens)
    last: TokenAdapters = field(default_factory=_of_no_tokens)

    def adapters_of(self, tokens: int) -> TokenAdapters:
        """The adapters of the tokens that a layer sees, as many as given.

        Raises:
            UnsupportedError: the layer sees other tokens than its model.
        """
        for adapters in (self.tokens, self.last):
            if len(adapters) == tokens:
                return adapters
        raise UnsupportedError(
            f"an adapter for a layer that sees {tokens} of {len(self.tokens)} tokens cannot be used"
        )

    def put_adapter(self, index: int, adapter: Adapter) -> Iterator[None]:
        """Puts an adapter where there is room for one, layer by layer. Mutates: their stacks."""
        for path, layer in self.layers.items():
            layer.stack.put(index, adapter.pairs.get(path))
            yield


def attach_adapters(model: nn.Module, adapters: AdapterSet, ops: Ops) -> LoraBank:
    """Wraps the layers that any of the adapters changes, or may change later.

    The adapters must fit the model (`check_fit`).

    Mutates: the model's modules.
    """
    bank = LoraBank(ops)
    for path in sorted(adapters.paths | (changeable(model) if adapters.room else set())):
        inner = model.get_submodule(path)
        kind = LoraEmbedding if isinstance(inner, nn.Embedding) else LoraLinear
        parent, _, name = path.rpartition(".")
        layer = kind(inner, adapters.stack(path, inner), bank)
        setattr(model.get_submodule(parent), name, layer)
        bank.layers[path] = layer
    return bank


class _LoraLayer(nn.Module):
    """A layer and the low-rank pairs that adapters have for it.

    Args:
        inner: the layer.
        stack: the pairs.
        bank: says which adapter a token uses.
    """

    def __init__(self, inner: nn.Module, stack: LoraStack, bank: LoraBank) -> None:
        super().__init__()
        self.inner = inner
        self.stack = stack
        self._bank = bank

    @property
    def weight(self) -> Tensor:
        """The wrapped layer's weight, which some models read directly."""
        return self.inner.weight  # type: ignore[return-value]


class LoraLinear(_LoraLayer):
    """A linear layer (or GPT-2's Conv1D) plus the adapters of each token."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., N] -> [..., M]; for all tokens, or for those whose logits are wanted."""
        y: Tensor = self.inner(x)
        stack, flat = self.stack, x.reshape(-1, x.shape[-1])
        out = y.view(-1, y.shape[-1])
        adapters = self._bank.adapters_of(len(flat))
        self._bank.ops.lora_apply(
            out,
            flat,
            a=stack.a,
            b=stack.b,
            scale=stack.scale,
            rank=stack.rank,
            index=adapters.index,
            strength=adapters.strength,
        )
        return y


class LoraEmbedding(_LoraLayer):
    """An embedding plus the adapters of each token."""

    def forward(self, ids: Tensor) -> Tensor:
        """ids [1, T] -> [1, T, M]"""
        y: Tensor = self.inner(ids)
        adapters, stack = self._bank.adapters_of(ids.numel()), self.stack
        factor = embedding_factor(self.inner)
        for index, strength in zip(adapters.index, adapters.strength, strict=True):
            for adapter in sorted(set(index.tolist()) - {NONE}):
                tokens = (index == adapter).nonzero()[:, 0]
                shrunk = stack.a[adapter][:, ids[0, tokens]].T.float()  # [t, K]
                scale = stack.scale[adapter] * factor * strength[tokens, None]  # [t, 1]
                delta = scale * (shrunk @ stack.b[adapter].float())  # [t, M]
                y[0, tokens] = (y[0, tokens].float() + delta).to(y.dtype)
        return y


def embedding_factor(embedding: nn.Module) -> Tensor | float:
    """What a layer multiplies its embeddings with, as Gemma's does; an adapter's part as well."""
    factor = getattr(embedding, "embed_scale", None)
    if factor is None:
        return 1.0
    weight: Tensor = embedding.weight  # type: ignore[assignment]
    # In the weight's type, as the layer itself multiplies.
    return torch.as_tensor(factor, device=weight.device).to(weight.dtype).float()
