"""Any Hugging Face causal language model whose attention can be exchanged, over packed rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
from torch import Tensor, nn

from cold_backend.adapters.adapter import Adapter
from cold_backend.contract import NONE, ROW
from cold_backend.models.attention import PackedState, packed_batch, running
from cold_backend.models.batch import Batch
from cold_backend.models.kv_cache import KVCache
from cold_backend.models.lora import LoraBank
from cold_backend.refusal import UnsupportedError

_log = logging.getLogger(__name__)


class PackedTransformer:
    """The model's own code, with our attention: for models that `Llama` does not know.

    Args:
        model: from `load_model`.
        lora: the model's adapters, if it has any.
    """

    def __init__(self, model: nn.Module, lora: LoraBank | None) -> None:
        self._model = model
        self._lora = lora
        self.device = next(model.parameters()).device
        embeddings = model.get_output_embeddings()  # type: ignore[operator]
        self.vocab_size = int(embeddings.weight.shape[0])

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """See `Network`."""
        if self._lora is not None:
            self._lora.tokens = batch.adapters
            self._lora.last = batch.adapters.take(batch.last)
        with running(packed_batch(batch, cache)):
            output = self._model(
                input_ids=batch.tokens[None],  # [1, T]
                position_ids=batch.positions[None],  # [1, T]
                logits_to_keep=batch.last,
                past_key_values=PackedState(),
                use_cache=False,
            )
        logits: Tensor = output.logits[0]
        return logits if len(logits) == len(batch.last) else logits[batch.last]

    def put_adapter(self, index: int, adapter: Adapter) -> Iterator[None]:
        """See `Network`."""
        if self._lora is not None:
            yield from self._lora.put_adapter(index, adapter)


def try_architecture(model: nn.Module) -> None:
    """Runs a model's code over two rows without values, on the meta device.

    It finds most of what cannot be served, before any weight is read.

    Mutates: what of the model has values loses them.

    Raises:
        UnsupportedError: the code asks for what is not done here.
    """
    rows = np.zeros(2, ROW)
    rows["length"], rows["emits"], rows["adapters"] = (2, 1), 1, NONE
    blocks = np.arange(2, dtype=np.int32)
    try:
        network = PackedTransformer(model.to("meta"), None)
        batch = Batch.of(np.ones(3, np.int64), rows, blocks, network.device)
        network.forward(batch, KVCache(len(blocks)))
    except UnsupportedError:
        raise
    except Exception as error:  # of code that looks at values; it is tried when they are there
        _log.debug("%s was not tried without values: %s", type(model).__name__, error)
