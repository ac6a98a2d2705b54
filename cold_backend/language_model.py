"""One language model: a step's tokens in, logits of its emitting rows out.

Any Hugging Face causal language model whose attention can be exchanged runs here. All tokens of a
step, from prompts and running sequences alike, are one packed forward without padding.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from cold_backend.attention import ATTENTION_NAME, PackedBatch, PackedRow
from cold_backend.contract import Int32Array, Int64Array, Reads, Row, emitting, reading
from cold_backend.errors import ConfigError
from cold_backend.kv_cache import KVCache
from cold_backend.lora import LoraBank

_log = logging.getLogger(__name__)


class LanguageModel:
    """The base model, with adapters or without, and the KV cache of its sequences.

    Args:
        model: from `load_model`.
        reader: which rows of a step this model runs.
        slots: sequences that the KV cache holds.
        context: tokens per sequence.
        lora: the model's adapters, if it has any.

    Raises:
        ConfigError: the model's code does not work with packed attention.
    """

    def __init__(
        self,
        model: nn.Module,
        reader: Reads,
        *,
        slots: int,
        context: int,
        lora: LoraBank | None = None,
    ) -> None:
        self._model = model
        self._reader = reader
        self._lora = lora
        self._device = next(model.parameters()).device
        self.cache = KVCache(slots, context)
        self._warm_up()

    @torch.inference_mode()
    def forward(self, tokens: Int64Array, rows: Int32Array) -> Tensor:
        """Runs the rows that this model reads.

        Args:
            tokens: [T], as in `Step`.
            rows: [R, len(Row)], as in `Step`.

        Returns:
            [E', V] logits after the last token of each row that emits and that this model reads.

        Mutates: the KV cache.
        """
        mine = reading(rows, self._reader)
        lengths = rows[:, Row.LENGTH]
        rows, tokens = rows[mine], tokens[np.repeat(mine, lengths)]
        if not len(rows):
            return torch.empty((0, self.vocab_size))
        ends = np.cumsum(rows[:, Row.LENGTH])
        last = self._tensor(ends[emitting(rows)] - 1)
        if self._lora is not None:
            adapters = rows[:, Row.ADAPTER]
            self._lora.index = self._tensor(np.repeat(adapters, rows[:, Row.LENGTH]))
            self._lora.last_index = self._tensor(adapters[emitting(rows)])
        output = self._model(
            input_ids=self._tensor(tokens)[None],  # [1, T]
            position_ids=self._tensor(_positions(rows))[None],  # [1, T]
            logits_to_keep=last,
            use_cache=False,
            packed=PackedBatch(self.cache, _packed_rows(rows, ends)),
        )
        logits: Tensor = output.logits[0]
        return logits

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        embeddings = self._model.get_output_embeddings()  # type: ignore[operator]
        return int(embeddings.weight.shape[0])

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _warm_up(self) -> None:
        """Runs one token, which takes the KV cache's memory and shows that the model fits."""
        row = dict.fromkeys(Row, 0) | {
            Row.LENGTH: 1,
            Row.ADAPTER: -1,
            Row.READS: int(self._reader),
            Row.EMITS: 1,
        }
        rows = np.array([[row[column] for column in Row]], np.int32)
        name = type(self._model).__name__
        try:
            logits = self.forward(np.zeros(1, np.int64), rows)
        except (TypeError, AttributeError, NotImplementedError) as error:
            raise ConfigError(f"base_model: {name} cannot run packed: {error}") from error
        if not self.cache.bytes or len(logits) != 1:
            raise ConfigError(f"base_model: {name} does not use transformers' attention interface")
        _log.info("%s: %d MB of KV cache", name, self.cache.bytes >> 20)


def load_config(path: str) -> Any:
    """Reads a model directory's configuration.

    Raises:
        ConfigError: no such directory, or no model that transformers knows.
    """
    if not (Path(path) / "config.json").is_file():
        raise ConfigError(f"base_model: {path} is not a Hugging Face model directory")
    try:
        return AutoConfig.from_pretrained(path, local_files_only=True)
    except (ValueError, OSError) as error:
        raise ConfigError(f"base_model: {path}: {_first_line(error)}") from error


def context_limit(config: Any) -> int:
    """The longest sequence that a model can hold, in tokens."""
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        # These scale by the longest sequence of a forward, which would let a batch change its
        # rows; below the original length they do not scale.
        return int(rope["original_max_position_embeddings"])
    return int(getattr(text, "max_position_embeddings", None) or 1 << 20)


def load_model(path: str, config: Any, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Loads a model's weights from safetensors.

    Raises:
        ConfigError: the weights are missing or not safetensors, or the architecture is unsupported.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            attn_implementation=ATTENTION_NAME,
        )
    except (ValueError, OSError) as error:
        raise ConfigError(f"base_model: {path}: {_first_line(error)}") from error
    return model.eval().requires_grad_(False).to(device)


def empty_model(config: Any) -> nn.Module:
    """The model's modules without memory behind them, to check adapters against.

    Raises:
        ConfigError: the configuration is not that of a causal language model.
    """
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise ConfigError(f"base_model: {_first_line(error)}") from error


def _positions(rows: Int32Array) -> Int64Array:
    """[T] position of every token in its sequence."""
    spans = (np.arange(s, s + n) for s, n in rows[:, [Row.START, Row.LENGTH]])
    return np.concatenate([*spans]).astype(np.int64)


def _packed_rows(rows: Int32Array, ends: npt.NDArray[np.int64]) -> tuple[PackedRow, ...]:
    slots, starts, lengths = (rows[:, c].tolist() for c in (Row.SLOT, Row.START, Row.LENGTH))
    return tuple(
        PackedRow(slot, start, slice(end - length, end))
        for slot, start, length, end in zip(slots, starts, lengths, ends.tolist(), strict=True)
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
