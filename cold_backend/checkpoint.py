"""A Hugging Face model directory: its configuration and its weights.

transformers is imported late: a process that needs no model starts two seconds earlier.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from cold_backend.errors import ConfigError


def load_config(path: str) -> Any:
    """Reads a model directory's configuration.

    Raises:
        ConfigError: no such directory, or no model that transformers knows.
    """
    if not (Path(path) / "config.json").is_file():
        raise ConfigError(f"base_model: {path} is not a Hugging Face model directory")
    from transformers import AutoConfig

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
    from transformers import AutoModelForCausalLM

    from cold_backend.attention import ATTENTION_NAME

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
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise ConfigError(f"base_model: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
