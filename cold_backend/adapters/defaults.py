"""How an adapter is best decoded: `cold.json` beside it, which `cold-tune` writes."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path

from cold_backend.adapters.files import AdapterFile, find_stamp
from cold_backend.contract import STRONGEST

FILE = "cold.json"
_DECODINGS = ("cold", "greedy")
_KEYS = ("decoding", "alpha", "beta", "tuning")


@dataclass(frozen=True, slots=True)
class AdapterDefaults:
    """What requests that do not say otherwise get; the fields are the inputs of the same name."""

    decoding: str = "cold"
    alpha: float = 0.1
    beta: float = 0.5


NO_DEFAULTS = AdapterDefaults()  # of an adapter for which nobody has any


def read_defaults(adapter: Path, name: str = "") -> AdapterDefaults:
    """Reads an adapter's file; without one it has no defaults.

    Args:
        adapter: its directory.
        name: what requests call it; the directory's if empty.

    Raises:
        ConfigError: the file is malformed; names the adapter, the file and the key.
        AdapterUnreadableError: it could not be read, but may be later.
    """
    name = name or adapter.name
    if not find_stamp(name, adapter, FILE):
        return AdapterDefaults()
    with AdapterFile(name, adapter, FILE) as file:
        values = file.read_json()
    try:
        return _defaults(values)
    except ValueError as error:
        raise file.problem(str(error)) from error


def _defaults(values: dict[str, object]) -> AdapterDefaults:
    for key in values:
        if key not in _KEYS:
            raise ValueError(f"{key[:64]!r}: unknown key; known are {', '.join(_KEYS)}")
    others = AdapterDefaults()
    decoding = values.get("decoding", others.decoding)
    if decoding not in _DECODINGS:
        raise ValueError(
            f"decoding: must be one of {', '.join(_DECODINGS)}, got {repr(decoding)[:64]}"
        )
    alpha = _number("alpha", values.get("alpha", others.alpha))
    beta = _number("beta", values.get("beta", others.beta))
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha: must be in (0, 1], got {alpha:g}")
    if not 0 <= beta <= STRONGEST:
        raise ValueError(f"beta: must be in [0, {STRONGEST:g}], got {beta:g}")
    return AdapterDefaults(str(decoding), alpha, beta)


def _number(key: str, value: object) -> float:
    if type(value) in (int, float):
        with contextlib.suppress(OverflowError):
            number = float(value)  # type: ignore[arg-type]
            if math.isfinite(number):
                return number
    raise ValueError(f"{key}: must be a finite number, got {repr(value)[:64]}")
