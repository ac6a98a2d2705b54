"""Any Hugging Face causal language model whose attention can be exchanged, over packed rows."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from cold_backend.adapters import Adapter
from cold_backend.attention import PackedBatch, PackedState, packed_rows, running
from cold_backend.batch import Batch
from cold_backend.kv_cache import KVCache
from cold_backend.lora import LoraBank


class PackedTransformer:
    """The model's own code, with our attention: for models that `Decoder` does not know.

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
            self._lora.index = batch.adapters
            self._lora.last_index = batch.adapters[batch.last]
        with running(PackedBatch(cache, packed_rows(batch.spans))):
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
