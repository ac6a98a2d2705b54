"""PEFT LoRA adapters: read from a directory, checked against the base model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cold_backend.adapter_config import AdapterConfig, read_adapter_config
from cold_backend.errors import ConfigError

_PREFIX = "base_model.model."
_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
FILES = (_CONFIG, _WEIGHTS)
_LONGEST_NAME = 256
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_COPY = ".base_layer.weight"
_SIDES = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_embedding_A": "a",
    ".lora_embedding_B": "b",
}


@dataclass(frozen=True, slots=True)
class LoraPair:
    """The two matrices of one layer: the layer gains scale * b @ a.

    Attributes:
        a: [rank, in_features]; for an embedding in_features is the vocabulary.
        b: [out_features, rank].
        scale: lora_alpha / rank, or lora_alpha / sqrt(rank) with rsLoRA (arXiv 2312.03732).
    """

    a: Tensor
    b: Tensor
    scale: float


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter.

    Attributes:
        name: what requests call it.
        pairs: by the path of the layer that they change.
        copies: weights of the base model that PEFT saved along, by path; it does so for
            embeddings, and they must be those of the base model that is served.
    """

    name: str
    pairs: dict[str, LoraPair]
    copies: dict[str, Tensor]


def load_adapter(name: str, path: str) -> Adapter:
    """Reads a PEFT LoRA directory.

    Raises:
        ConfigError: files are missing or broken, or the adapter is not plain LoRA.
    """
    if not (Path(path) / _CONFIG).is_file():
        raise ConfigError(f"adapter {name}: {path} is not a PEFT adapter directory")
    if not (Path(path) / _WEIGHTS).is_file():
        raise ConfigError(f"adapter {name}: {path} has no {_WEIGHTS}")
    config = read_adapter_config(name, Path(path) / _CONFIG)
    try:
        weights = load_file(Path(path) / _WEIGHTS)
    except (ValueError, TypeError, KeyError, RuntimeError, OSError, SafetensorError) as error:
        raise ConfigError(f"adapter {name}: {_WEIGHTS}: {str(error)[:200]}") from error
    copies = {
        key[len(_PREFIX) : -len(_COPY)]: weights.pop(key)
        for key in [*weights]
        if key.startswith(_PREFIX) and key.endswith(_COPY)
    }
    sides = _sides(name, weights)
    pairs = {layer: _pair(name, layer, config, side) for layer, side in sides.items()}
    return Adapter(name, pairs, copies)


def check_fit(adapter: Adapter, model: nn.Module) -> None:
    """Checks that every layer that the adapter changes exists with matching sizes.

    Raises:
        ConfigError: the adapter was made for another model, or holds what is no number.
    """
    modules = dict(model.named_modules())
    for path, pair in adapter.pairs.items():
        module = modules.get(path)
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            raise ConfigError(f"adapter {adapter.name}: the base model has no layer {path}")
        found = features(module, weight)
        wanted = (pair.b.shape[0], pair.a.shape[1])
        if found != wanted:
            raise ConfigError(
                f"adapter {adapter.name}: {path} is {found[0]}x{found[1]} in the base model, "
                f"{wanted[0]}x{wanted[1]} in the adapter"
            )
        # Only now: a matrix that is too large has not been looked at.
        if not (torch.isfinite(pair.a).all() and torch.isfinite(pair.b).all()):
            raise ConfigError(f"adapter {adapter.name}: {path} holds values that are not finite")
    for path, copy in adapter.copies.items():
        if path not in adapter.pairs or not _same(copy, modules[path].weight):
            raise ConfigError(f"adapter {adapter.name}: replaces the base model's {path}")


def _same(copy: Tensor, weight: Any) -> bool:
    if copy.shape != weight.shape or copy.dtype not in _DTYPES:
        return False
    return weight.is_meta or torch.equal(copy.to(weight), weight)


def features(module: Any, weight: Tensor) -> tuple[int, int]:
    """(out_features, in_features) of a layer."""
    rows, columns = weight.shape
    is_linear = isinstance(module, nn.Linear)
    # An embedding's rows and a Conv1D's rows (GPT-2) are what goes in.
    return (rows, columns) if is_linear else (columns, rows)


def _sides(name: str, weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The matrices by layer and side (`a`, `b`)."""
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in weights.items():
        if len(key) > _LONGEST_NAME or not key.isprintable():
            raise ConfigError(f"adapter {name}: {key[:64]!r} cannot be the name of a matrix")
        suffix = next((s for s in _SIDES if key.endswith(s)), None)
        if suffix is None or not key.startswith(_PREFIX):
            raise ConfigError(f"adapter {name}: {key} is not a LoRA matrix")
        layer = key[len(_PREFIX) : -len(suffix)]
        layers.setdefault(layer, {})[_SIDES[suffix]] = tensor
    if not layers:
        raise ConfigError(f"adapter {name}: holds no LoRA matrix")
    return layers


def _pair(name: str, layer: str, config: AdapterConfig, sides: dict[str, Tensor]) -> LoraPair:
    a, b = sides.get("a"), sides.get("b")
    if a is None or b is None or a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        raise ConfigError(f"adapter {name}: {layer} needs matrices [rank, in] and [out, rank]")
    if a.dtype not in _DTYPES or b.dtype not in _DTYPES:
        raise ConfigError(f"adapter {name}: {layer} must be float32, float16 or bfloat16")
    if a.shape[0] != config.rank(layer):
        raise ConfigError(
            f"adapter {name}: {layer} has rank {a.shape[0]}, {config.rank(layer)} in {_CONFIG}"
        )
    return LoraPair(a, b, config.scale(layer))
