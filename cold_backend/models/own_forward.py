"""A model's own forward, as transformers and PEFT have it: what others are held against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cold_backend.adapters.adapter import Adapter, LoraPair, features
from cold_backend.adapters.loader import changeable
from cold_backend.contract import Int64Array
from cold_backend.models.attention import ATTENTION_NAME
from cold_backend.models.lora import AdapterSet, embedding_factor
from cold_backend.refusal import UnsupportedError

# Of more than one block each.
_SHORT = 19  # tokens of the second text
_LONG = 36  # of the first, at least
_LONGEST = 320
_FLOP = 2e11  # of a forward over the first text, at most
_MOST_ADAPTERS = 3
_RANK = 4
_STRENGTH = 0.15


@contextmanager
def own_attention(model: Any) -> Iterator[None]:
    """The model's own attention and masks within the block. Mutates: the model's configuration."""
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(ATTENTION_NAME)


def own_logits(model: nn.Module, ids: Int64Array, adapter: Adapter | None) -> Tensor:
    """[n, V] logits after each of n tokens."""
    device = next(model.parameters()).device
    with ExitStack() as hooks:
        for path, pair in adapter.pairs.items() if adapter else ():
            module = model.get_submodule(path)
            hook = _add_to_embedding if isinstance(module, nn.Embedding) else _add_to_linear
            hooks.enter_context(_removed(module.register_forward_hook(partial(hook, pair))))
        output = model(torch.from_numpy(ids).to(device)[None], use_cache=False)
    logits: Tensor = output.logits[0]
    return logits


def texts(model: nn.Module, context: int, seed: int) -> tuple[Int64Array, Int64Array]:
    """Two texts: the first longer than windows and chunks of the model, where that is not dear."""
    config: Any = model.config.get_text_config()  # type: ignore[operator, union-attr]
    weights = sum(weight.numel() for weight in model.parameters())
    dear = int(_FLOP / (2 * weights))
    wanted = 3 * max(_sizes_of_masks(config), default=0) // 2 + 2
    long = min(context, max(_LONG, min(wanted, dear, _LONGEST)))
    named = [value for name, value in config.to_dict().items() if name.endswith("_token_id")]
    special = np.hstack([value for value in named if value is not None] or [[-1]])
    plain = np.setdiff1d(np.arange(min(config.vocab_size, 1000)), special)
    chosen = np.random.default_rng(seed).choice(plain, long + _SHORT)
    return chosen[:long], chosen[long:][: min(_SHORT, context)]


def has_experts(model: nn.Module) -> bool:
    """Whether a router chooses among parts of the model for each token."""
    config: Any = model.config.get_text_config()  # type: ignore[operator, union-attr]
    return any("expert" in name and value for name, value in config.to_dict().items())


def adapters_to_try(model: nn.Module, adapters: AdapterSet) -> Iterator[tuple[int, Adapter | None]]:
    """By index: of the fixed ones those that change different layers, and a random one if any may
    come later; none at all where the model has no adapters."""
    if not len(adapters):
        yield -1, None
    seen: list[set[str]] = []
    for index, adapter in enumerate(adapters.fixed):
        if {*adapter.pairs} not in seen and len(seen) < _MOST_ADAPTERS:
            seen.append({*adapter.pairs})
            yield index, adapter
    if adapters.room:
        yield len(adapters.fixed), _random_adapter(model, min(_RANK, adapters.max_rank))


def _sizes_of_masks(config: Any) -> list[int]:
    named = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return [size for size in named if isinstance(size, int)]


def _random_adapter(model: nn.Module, rank: int) -> Adapter:
    """Changes every layer that may be, by a part of what its weights do.

    Much stronger, it would make rounding grow from layer to layer.
    """
    chance = torch.Generator().manual_seed(0)
    pairs = {}
    for path in sorted(changeable(model)):
        module = model.get_submodule(path)
        weight: Tensor = module.weight  # type: ignore[assignment]
        outputs, inputs = features(module, weight)
        strength = _STRENGTH * float(weight[:8].float().square().mean().sqrt()) / rank**0.5
        a = torch.randn((rank, inputs), generator=chance)
        pairs[path] = LoraPair(a, torch.randn((outputs, rank), generator=chance) * strength, 1.0)
    return Adapter("random", pairs, {})


def _add_to_linear(
    pair: LoraPair, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
) -> Tensor:
    if not isinstance(output, Tensor):
        raise UnsupportedError("an adapter for a layer that gives several tensors")
    a, b = _like(pair, module)
    delta = pair.scale * (inputs[0].float() @ a.T @ b.T)
    return (output.float() + delta).to(output.dtype)


def _add_to_embedding(
    pair: LoraPair, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
) -> Tensor:
    a, b = _like(pair, module)
    delta = pair.scale * embedding_factor(module) * (a.T[inputs[0]] @ b.T)
    return (output.float() + delta).to(output.dtype)


def _like(pair: LoraPair, module: nn.Module) -> tuple[Tensor, Tensor]:
    """The pair's matrices as they are kept: in the type of the layer's weights."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    return pair.a.to(weight).float(), pair.b.to(weight).float()


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
