"""PEFT LoRA adapters: read from a directory, checked against the base model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cold_backend.adapters.files import CONFIG, WEIGHTS, AdapterFile, Stamp, find_stamp
from cold_backend.adapters.pace import Pace
from cold_backend.adapters.peft_config import AdapterConfig, read_adapter_config
from cold_backend.adapters.weights import AdapterWeights
from cold_backend.errors import ConfigError

_PREFIX = "base_model.model."
_LONGEST_NAME = 256
_MAX_HEADER_BYTES = 16 << 20
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
        stamp: of its files when they were read, see `find_adapter_stamp`.
    """

    name: str
    pairs: dict[str, LoraPair]
    copies: dict[str, Tensor]
    stamp: Stamp = ()

    @property
    def bytes(self) -> int:
        """Of its matrices."""
        return sum(side.nbytes for pair in self.pairs.values() for side in (pair.a, pair.b))


class AdapterDirectory:
    """An adapter of which everything but the values has been read. A context manager.

    Args:
        name: what requests call it.
        path: a PEFT LoRA directory.
        max_header_bytes: of the file with the matrices.

    Attributes:
        outline: the adapter, its tensors on the meta device.

    Raises:
        ConfigError: files are missing or broken, or the adapter is not plain LoRA.
        AdapterUnreadableError: it could not be read, but may be later.
    """

    def __init__(self, name: str, path: str, max_header_bytes: int = _MAX_HEADER_BYTES) -> None:
        self._name = name
        self._file = AdapterFile(name, Path(path), WEIGHTS)
        try:
            with AdapterFile(name, Path(path), CONFIG) as file:
                self._config = read_adapter_config(file)
                stamp = file.stamp
            self._weights = AdapterWeights(self._file, max_header_bytes)
            self._stamp = stamp + self._file.stamp
            self.outline = self.arranged(self._weights.outline())
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> AdapterDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, pace: Pace) -> Adapter:
        """The adapter.

        Raises:
            ConfigError: a value is not finite.
            AdapterUnreadableError: the file could not be read, or has been cut short.
        """
        tensors = {name: self._weights.read(name, pace) for name in self._weights.outline()}
        return self.arranged(tensors)

    def arranged(self, tensors: dict[str, Tensor]) -> Adapter:
        """The adapter of the tensors that its file has, by name."""
        return _arranged(self._name, self._config, tensors, self._stamp)


def load_adapter(name: str, path: str) -> Adapter:
    """Maps an adapter that stays from the start to the end; its files must not be changed.

    Raises:
        ConfigError: files are missing or broken, or the adapter is not plain LoRA.
    """
    if not (Path(path) / CONFIG).is_file():
        raise ConfigError(f"adapter {name}: {path} is not a PEFT adapter directory")
    with AdapterDirectory(name, path) as directory:
        try:
            tensors = load_file(Path(path) / WEIGHTS)
        except (ValueError, TypeError, KeyError, RuntimeError, OSError, SafetensorError) as error:
            raise ConfigError(f"adapter {name}: {WEIGHTS}: {str(error)[:200]}") from error
        return directory.arranged(tensors)


def find_adapter_stamp(name: str, path: str) -> Stamp:
    """Changes when an adapter's files do; lacks the part of a file that is missing.

    Raises:
        ConfigError: they cannot be looked at.
        AdapterUnreadableError: they cannot be looked at now.
    """
    return find_stamp(name, Path(path), CONFIG) + find_stamp(name, Path(path), WEIGHTS)


def check_fit(adapter: Adapter, model: nn.Module) -> None:
    """Checks that every layer that the adapter changes exists with matching sizes.

    Raises:
        ConfigError: the adapter was made for another model, or holds what is no number.
    """
    modules = dict(model.named_modules())
    for path, pair in adapter.pairs.items():
        _check_sizes(adapter.name, path, pair, modules.get(path))
        # Only now: a matrix that is too large has not been looked at.
        if not (_is_finite(pair.a) and _is_finite(pair.b)):
            raise ConfigError(f"adapter {adapter.name}: {path} holds values that are not finite")
    for path, copy in adapter.copies.items():
        if path not in adapter.pairs or not _same(copy, modules[path].weight):
            raise ConfigError(f"adapter {adapter.name}: replaces the base model's {path}")


def _check_sizes(name: str, path: str, pair: LoraPair, module: nn.Module | None) -> None:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise ConfigError(f"adapter {name}: the base model has no layer {path}")
    found = features(module, weight)
    wanted = (pair.b.shape[0], pair.a.shape[1])
    if found != wanted:
        raise ConfigError(
            f"adapter {name}: {path} is {found[0]}x{found[1]} in the base model, "
            f"{wanted[0]}x{wanted[1]} in the adapter"
        )


def _is_finite(matrix: Tensor) -> bool:
    return matrix.is_meta or bool(torch.isfinite(matrix).all())


def _same(copy: Tensor, weight: Any) -> bool:
    if copy.shape != weight.shape or copy.dtype not in _DTYPES:
        return False
    return copy.is_meta or weight.is_meta or torch.equal(copy.to(weight), weight)


def features(module: Any, weight: Tensor) -> tuple[int, int]:
    """(out_features, in_features) of a layer."""
    rows, columns = weight.shape
    is_linear = isinstance(module, nn.Linear)
    # An embedding's rows and a Conv1D's rows (GPT-2) are what goes in.
    return (rows, columns) if is_linear else (columns, rows)


def _arranged(
    name: str, config: AdapterConfig, weights: dict[str, Tensor], stamp: Stamp
) -> Adapter:
    copies = {
        key[len(_PREFIX) : -len(_COPY)]: weights.pop(key)
        for key in [*weights]
        if key.startswith(_PREFIX) and key.endswith(_COPY)
    }
    sides = _sides(name, weights)
    pairs = {layer: _pair(name, layer, config, side) for layer, side in sides.items()}
    return Adapter(name, pairs, copies, stamp)


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
            f"adapter {name}: {layer} has rank {a.shape[0]}, {config.rank(layer)} in {CONFIG}"
        )
    return LoraPair(a, b, config.scale(layer))
