"""Reads adapters that are put into a running model, and checks that they can be."""

from __future__ import annotations

from torch import nn

from cold_backend.adapters import Adapter, check_fit, load_adapter
from cold_backend.errors import ConfigError
from cold_backend.lora import changeable


class AdapterLoader:
    """Reads PEFT LoRA directories for one base model.

    Args:
        model: the base model's modules, with memory behind them or without.
        max_rank: LoRA rank that there is room for.
    """

    def __init__(self, model: nn.Module, max_rank: int) -> None:
        self._model = model
        self._max_rank = max_rank
        self._changeable = changeable(model)

    def load(self, name: str, path: str) -> Adapter:
        """Reads an adapter.

        Raises:
            ConfigError: it is broken, made for another model, or there is no room for it.
        """
        adapter = load_adapter(name, path)
        check_fit(adapter, self._model)
        for layer, pair in adapter.pairs.items():
            if layer not in self._changeable:
                raise ConfigError(
                    f"adapter {name}: changes {layer}, which only an adapter can that is named "
                    "when the server starts"
                )
            if pair.a.shape[0] > self._max_rank:
                raise ConfigError(
                    f"adapter {name}: {layer} has rank {pair.a.shape[0]}, max_lora_rank is "
                    f"{self._max_rank}"
                )
        return adapter
