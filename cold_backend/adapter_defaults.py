"""How an adapter is best decoded: `cold.json` beside it, which `cold-tune` writes."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path

from cold_backend.adapter_config import read_json_object
from cold_backend.errors import ConfigError
from cold_backend.fields import STRONGEST

FILE = "cold.json"
_DECODINGS = ("cold", "greedy")
_KEYS = ("decoding", "alpha", "beta", "tuning")


@dataclass(frozen=True, slots=True)
class AdapterDefaults:
    """What requests that do not say otherwise get; the fields are the inputs of the same name."""

    decoding: str = "cold"
    alpha: float = 0.1
    beta: float = 0.5


def read_defaults(adapter: Path) -> AdapterDefaults:
    """Reads an adapter's file; without one it has no defaults.

    Raises:
        ConfigError: the file is malformed; names the file and the key.
    """
    path = adapter / FILE
    if not path.exists():
        return AdapterDefaults()
    try:
        values = read_json_object(path)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {str(error)[:200]}") from error
    for key in values:
        if key not in _KEYS:
            raise ConfigError(f"{path}: {key[:64]!r}: unknown key; known are {', '.join(_KEYS)}")
    others = AdapterDefaults()
    decoding = values.get("decoding", others.decoding)
    if decoding not in _DECODINGS:
        raise ConfigError(
            f"{path}: decoding: must be one of {', '.join(_DECODINGS)}, got {repr(decoding)[:64]}"
        )
    alpha = _number(path, "alpha", values.get("alpha", others.alpha))
    beta = _number(path, "beta", values.get("beta", others.beta))
    if not 0 < alpha <= 1:
        raise ConfigError(f"{path}: alpha: must be in (0, 1], got {alpha:g}")
    if not 0 <= beta <= STRONGEST:
        raise ConfigError(f"{path}: beta: must be in [0, {STRONGEST:g}], got {beta:g}")
    return AdapterDefaults(decoding, alpha, beta)


def _number(path: Path, key: str, value: object) -> float:
    if type(value) in (int, float):
        with contextlib.suppress(OverflowError):
            number = float(value)  # type: ignore[arg-type]
            if math.isfinite(number):
                return number
    raise ConfigError(f"{path}: {key}: must be a finite number, got {repr(value)[:64]}")
