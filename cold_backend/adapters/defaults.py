"""How an adapter is best decoded: `cold.json` beside it, which `cold-tune` writes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cold_backend.adapters.files import AdapterFile, find_stamp
from cold_backend.config import is_adapter_name
from cold_backend.protocol.inputs import INPUTS

FILE = "cold.json"
PARTS = ("system", "context")  # of a prompt
_CHOICES = {"decoding": ("cold", "greedy"), "beta_rule": INPUTS["beta_rule"].choices}
_TUNING = "tuning"  # notes of who tuned; nothing here reads them


@dataclass(frozen=True, slots=True)
class AmateurRule:
    """What to contrast with, whatever the prompt is; the key `amateur`.

    Attributes:
        without: part of the prompt that the amateur does not see, see `requests.parts`.
        last_tokens: it sees so many of the prompt's last ones; None for all.
        lora_name: its adapter, empty for none; None for the expert's where it sees less than the
            expert, or has a strength of its own.
        lora_scale: that one's strength; None for the expert's, or 1 of another.
    """

    without: str | None = None
    last_tokens: int | None = None
    lora_name: str | None = None
    lora_scale: float | None = None


@dataclass(frozen=True, slots=True)
class AdapterDefaults:
    """What requests that do not say otherwise get; the fields are the inputs of the same name, and
    `amateur`."""

    decoding: str = INPUTS["decoding"].default
    alpha: float = INPUTS["alpha"].default
    beta: float = INPUTS["beta"].default
    beta_rule: str = INPUTS["beta_rule"].default
    lora_scale: float = INPUTS["lora_scale"].default
    amateur: AmateurRule | None = None


NO_DEFAULTS = AdapterDefaults()  # of an adapter for which nobody has any
_FIELDS = tuple(field.name for field in fields(AdapterDefaults))
_OF_RULE = tuple(field.name for field in fields(AmateurRule))


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
    _check_keys("", values, (*_FIELDS, _TUNING))
    found: dict[str, Any] = {key: values[key] for key in _FIELDS if key in values}
    for key, value in found.items():
        if key == "amateur":
            found[key] = _amateur(value)
        elif key in _CHOICES:
            _check_choice(key, value, _CHOICES[key])
        else:
            found[key] = _number(key, value, key)
    return AdapterDefaults(**found)


def _amateur(values: object) -> AmateurRule:
    if not isinstance(values, dict) or not values:
        raise ValueError(f"amateur: must be an object with one at least of {', '.join(_OF_RULE)}")
    _check_keys("amateur.", values, _OF_RULE)
    if "without" in values and "last_tokens" in values:
        raise ValueError("amateur.last_tokens: not with without")
    found = dict(values)
    for key, value in values.items():
        name = f"amateur.{key}"
        if key == "without":
            _check_choice(name, value, PARTS)
        elif key == "lora_name":
            if value != "" and not (isinstance(value, str) and is_adapter_name(value)):
                raise ValueError(f"{name}: must be empty or an adapter's name, got {_shown(value)}")
        else:
            found[key] = _number(name, value, f"amateur_{key}")
    if "last_tokens" in found:
        found["last_tokens"] = _whole("amateur.last_tokens", found["last_tokens"])
    return AmateurRule(**found)


def _check_keys(prefix: str, values: Mapping[str, object], known: Sequence[str]) -> None:
    for key in values:
        if key not in known:
            raise ValueError(f"{prefix + key[:64]!r}: unknown key; known are {', '.join(known)}")


def _check_choice(key: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{key}: must be one of {', '.join(choices)}, got {_shown(value)}")


def _number(key: str, value: object, field: str) -> float:
    """A number that the request's field may have."""
    number = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{key}: must be a finite number, got {_shown(value)}")
    if refusal := INPUTS[field].refusal(number):
        raise ValueError(f"{key}: {refusal}")
    return number


def _whole(key: str, number: float) -> int:
    if number != int(number) or number >= 2**31:
        raise ValueError(f"{key}: must be a whole number below 2^31, got {number:g}")
    return int(number)


def _shown(value: object) -> str:
    return repr(value)[:64]
