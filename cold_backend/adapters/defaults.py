"""How an adapter is best decoded: `cold.json` beside it, which `cold-tune` writes."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cold_backend.adapters.files import AdapterFile, find_stamp
from cold_backend.protocol.inputs import INPUTS

FILE = "cold.json"
_DECODINGS = ("cold", "greedy")
_TUNING = "tuning"  # notes of who tuned; nothing here reads them


@dataclass(frozen=True, slots=True)
class AdapterDefaults:
    """What requests that do not say otherwise get; the fields are the inputs of the same name.

    All but `decoding` are numbers.
    """

    decoding: str = INPUTS["decoding"].default
    alpha: float = INPUTS["alpha"].default
    beta: float = INPUTS["beta"].default
    lora_scale: float = INPUTS["lora_scale"].default


NO_DEFAULTS = AdapterDefaults()  # of an adapter for which nobody has any
_FIELDS = tuple(field.name for field in fields(AdapterDefaults))


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
    known = (*_FIELDS, _TUNING)
    for key in values:
        if key not in known:
            raise ValueError(f"{key[:64]!r}: unknown key; known are {', '.join(known)}")
    found: dict[str, Any] = {key: values[key] for key in _FIELDS if key in values}
    for key, value in found.items():
        if key == "decoding":
            _check_decoding(value)
        else:
            found[key] = _number(key, value)
    return AdapterDefaults(**found)


def _check_decoding(value: object) -> None:
    if value not in _DECODINGS:
        raise ValueError(
            f"decoding: must be one of {', '.join(_DECODINGS)}, got {repr(value)[:64]}"
        )


def _number(key: str, value: object) -> float:
    number = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{key}: must be a finite number, got {repr(value)[:64]}")
    if refusal := INPUTS[key].refusal(number):
        raise ValueError(f"{key}: {refusal}")
    return number
