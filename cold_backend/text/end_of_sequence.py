"""Which tokens end a sequence: those that transformers stops at, and the tokenizer's own."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from cold_backend.errors import ConfigError

_log = logging.getLogger(__name__)

_KEY = "eos_token_id"
_GENERATION = "generation_config.json"
_CONFIG = "config.json"
# Where a config without a token of its own has it; the first of them that there is.
_NESTED = ("decoder", "generator", "text_config")


def end_tokens(path: str, tokenizer_end: int | None, vocab_size: int) -> frozenset[int]:
    """Every id that ends a sequence.

    generation_config.json says which; config.json is asked only if that file does not exist. An id
    that the model's logits do not have can never come: it is left out, and the log says so.

    Args:
        path: model directory.
        tokenizer_end: the tokenizer's end of sequence.
        vocab_size: width of the model's logits.

    Raises:
        ConfigError: a file is broken or has something else there.
    """
    found = {*_declared(Path(path)), *([] if tokenizer_end is None else [tokenizer_end])}
    beyond = sorted(i for i in found if not 0 <= i < vocab_size)
    if beyond:
        _log.warning(
            "base_model: end-of-sequence ids %s are ignored, the model's tokens are 0 to %d",
            ", ".join(map(str, beyond)),
            vocab_size - 1,
        )
    return frozenset(found.difference(beyond))


def _declared(path: Path) -> list[int]:
    if (path / _GENERATION).exists():
        return _ids(_GENERATION, _read(path / _GENERATION).get(_KEY))
    config = _read(path / _CONFIG) if (path / _CONFIG).exists() else {}
    if config.get(_KEY) is not None:
        return _ids(_CONFIG, config[_KEY])
    nested = next((part for name in _NESTED if (part := config.get(name))), None)
    return _ids(_CONFIG, nested.get(_KEY)) if isinstance(nested, dict) else []


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"base_model: {path.name}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"base_model: {path.name}: {str(error)[:200]}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"base_model: {path.name}: must be a JSON object")
    return values


def _ids(file: str, value: object) -> list[int]:
    ids: list[Any] = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(one) is int for one in ids):
        raise ConfigError(
            f"base_model: {file}: {_KEY}: must be an integer or a list of integers, "
            f"got {repr(value)[:64]}"
        )
    return ids
