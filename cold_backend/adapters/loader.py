"""Reads adapters that are put into a running model, and checks that they can be."""

from __future__ import annotations

from torch import nn

from cold_backend.adapters.adapter import Adapter, AdapterDirectory, check_fit, find_adapter_stamp
from cold_backend.adapters.pace import Pace
from cold_backend.errors import AdapterUnreadableError, ConfigError

_MATRIX_BYTES = 1024  # of a header, at most; most matrices take a fifth


class AdapterLoader:
    """Reads PEFT LoRA directories for one base model.

    Args:
        model: the base model's modules, with memory behind them or without.
        max_rank: LoRA rank that there is room for.

    Attributes:
        pace: holds it back while steps are executed.
    """

    def __init__(self, model: nn.Module, max_rank: int) -> None:
        self._model = model
        self._max_rank = max_rank
        self.pace = Pace()
        self._changeable = changeable(model)
        self._max_header_bytes = _MATRIX_BYTES * 2 * (len(self._changeable) + 1)

    def load(self, name: str, path: str) -> Adapter:
        """Reads an adapter: no value before it is known that all of them fit into the model.

        Raises:
            ConfigError: it is broken, made for another model, or there is no room for it.
            AdapterUnreadableError: it could not be read, but may be later.
        """
        with AdapterDirectory(name, path, self._max_header_bytes) as directory:
            self._check(directory.outline)
            try:
                adapter = directory.read(self.pace)
            except (MemoryError, RuntimeError) as error:  # torch's own when there is no memory
                raise AdapterUnreadableError(name, "found no memory") from error
        if find_adapter_stamp(name, path) != adapter.stamp:
            raise AdapterUnreadableError(name, "changed while it was read")
        return adapter

    def _check(self, outline: Adapter) -> None:
        for layer, pair in outline.pairs.items():
            if pair.a.shape[0] > self._max_rank:
                raise ConfigError(
                    f"adapter {outline.name}: {layer} has rank {pair.a.shape[0]}, max_lora_rank is "
                    f"{self._max_rank}"
                )
        check_fit(outline, self._model)
        for layer in outline.pairs:
            if layer not in self._changeable:
                raise ConfigError(
                    f"adapter {outline.name}: changes {layer}, which only an adapter can that is "
                    "named when the server starts"
                )


def changeable(model: nn.Module) -> set[str]:
    """Paths of the layers that an adapter may change which is put in while the model runs.

    Those inside the decoder's layers that do what their class does: room for it in an embedding or
    an output layer, which few adapters change, would be as wide as the vocabulary.
    """
    # Imported late: it needs transformers' modules, which take a second.
    from transformers.pytorch_utils import Conv1D

    head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    return {
        path
        for path, module in model.named_modules()
        if type(module).forward in (nn.Linear.forward, Conv1D.forward) and module is not head
    }
