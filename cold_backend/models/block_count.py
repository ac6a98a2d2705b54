"""How many blocks of keys and values a language model takes."""

from __future__ import annotations

import logging
from typing import Any

import torch

from cold_backend.config import Settings
from cold_backend.contract import BLOCK_TOKENS, Reader, blocks_for
from cold_backend.errors import ConfigError
from cold_kernels.free_memory import free_bytes

_log = logging.getLogger(__name__)

# Of what is free, where it computes for nobody else, and on a CPU, where others want some.
_SHARE = 0.9
_SHARES = {"cpu": 0.2}
_ROUND = 256  # a context that nobody chose
_MOST = 0.9  # what a single request needs may be more than the share


def block_count(
    settings: Settings, device: torch.device, block_bytes: int, *, readers: int, models: int
) -> int:
    """Blocks for a model that has been loaded, from the settings or from what is free.

    Where nobody says how much, it is no more than all requests that may run can fill.

    Args:
        settings: of the server.
        device: where the model is.
        block_bytes: of one block, all layers together.
        readers: that the model runs, of the two that there are.
        models: that share the device.

    Raises:
        ConfigError: not even one request fits.
    """
    least = readers * blocks_for(settings.max_context)
    given = settings.kv_cache_bytes * readers // len(Reader) // block_bytes
    free = free_bytes(device) // models // block_bytes
    share = int(free * _SHARES.get(device.type, _SHARE))
    blocks = given or max(min(share, settings.max_sequences * least), min(least, int(free * _MOST)))
    tokens = blocks * BLOCK_TOKENS // readers
    if blocks < least:
        raise ConfigError(
            f"{'kv_cache_bytes' if given else 'max_context'}: there is memory for the keys and "
            f"values of {tokens} tokens, and a request may have {settings.max_context}; set "
            f"max_context to {tokens} at most, or give it more memory"
        )
    _log.info(
        "KV cache: %d MB, %d tokens in all, or %.1f requests of max_context = %d",
        blocks * block_bytes // 10**6,
        tokens,
        tokens / settings.max_context,
        settings.max_context,
    )
    return blocks


def context_that_fits(
    settings: Settings, model: Any, limit: int, dtype: torch.dtype, device: torch.device
) -> int:
    """The longest context that there will be memory for, beside the weights; no more than `limit`.

    Args:
        settings: of the server.
        model: without values, of the architecture that is to be loaded.
        limit: tokens that it can hold.
        dtype: of weights, keys and values.
        device: where it will be.
    """
    config = model.config.get_text_config()
    weights = dtype.itemsize * sum(weight.numel() for weight in model.parameters())
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token_bytes = len(Reader) * 2 * config.num_hidden_layers * heads * width * dtype.itemsize
    share = max(0, free_bytes(device) - weights) * _SHARES.get(device.type, _SHARE)
    fitting = int((settings.kv_cache_bytes or share) / token_bytes) // _ROUND * _ROUND
    return min(limit, max(_ROUND, fitting))
