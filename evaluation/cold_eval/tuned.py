"""`cold.json`: the decoding that an adapter was tuned to, and on which items."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cold_backend.adapters.defaults import FILE, read_defaults
from cold_backend.errors import ColdError
from cold_eval.decodings import Decoding
from cold_eval.errors import EvaluationError


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was found.

    Attributes:
        decoding: named `tuned`.
        items: SHA-256 of each item that was looked at, see `Item.sha256`.
    """

    decoding: Decoding
    items: frozenset[str]


def read_tuned(adapter: Path) -> Tuned | None:
    """What is beside an adapter; None if nothing is.

    Raises:
        EvaluationError: the file is malformed.
    """
    path = adapter / FILE
    if not path.exists():
        return None
    try:
        defaults = read_defaults(adapter)
        items = json.loads(path.read_text(encoding="utf-8")).get("tuning", {}).get("items", [])
    except ColdError as error:
        raise EvaluationError(str(error)) from error
    except AttributeError as error:
        raise EvaluationError(f"{path}: tuning: must be an object") from error
    if not isinstance(items, list):
        raise EvaluationError(f"{path}: tuning: items: must be a list")
    is_cold = defaults.decoding == "cold"
    decoding = Decoding(
        name="tuned",
        kind=defaults.decoding,
        alpha=defaults.alpha if is_cold else None,
        beta=defaults.beta if is_cold else None,
        lora_scale=defaults.lora_scale,
    )
    return Tuned(decoding, frozenset(map(str, items)))


def write_tuned(adapter: Path, decoding: Decoding, tuning: Mapping[str, Any]) -> Path:
    """Writes the file, in one move.

    Raises:
        EvaluationError: it cannot be written.
    """
    values: dict[str, Any] = {"decoding": decoding.kind}
    if decoding.kind == "cold":
        values |= {"alpha": decoding.alpha, "beta": decoding.beta}
    if decoding.lora_scale != 1:
        values["lora_scale"] = decoding.lora_scale
    path = adapter / FILE
    new = path.with_suffix(".new")
    try:
        new.write_text(json.dumps({**values, "tuning": tuning}, indent=1) + "\n", encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise EvaluationError(f"{path}: {error.strerror}") from error
    return path
