"""`cold.json`: the decoding that an adapter was tuned to, and on which items."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cold_backend.adapters.defaults import FILE, read_defaults
from cold_backend.errors import ColdError
from cold_eval.amateurs import BASE, Amateur, amateur_of
from cold_eval.decodings import Decoding
from cold_eval.errors import EvaluationError
from cold_eval.items import Item

_MARK = 12  # hexadecimal digits of each item, all of them in one line


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was found.

    Attributes:
        decoding: named `tuned`.
        items: marks of the items that were looked at, see `mark_of`.
    """

    decoding: Decoding
    items: frozenset[str]

    def has_seen(self, item: Item) -> bool:
        """Whether an item was looked at; that it was not is said falsely of none, that it was of
        one in 2^48."""
        return mark_of(item) in self.items


def mark_of(item: Item) -> str:
    """The beginning of an item's hash."""
    return item.sha256[:_MARK]


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
        items = json.loads(path.read_text(encoding="utf-8")).get("tuning", {}).get("items", "")
        amateur = amateur_of(defaults.amateur)
    except ColdError as error:
        raise EvaluationError(str(error)) from error
    except AttributeError as error:
        raise EvaluationError(f"{path}: tuning: must be an object") from error
    if not isinstance(items, str):
        raise EvaluationError(f"{path}: tuning: items: must be a string")
    is_cold = defaults.decoding == "cold"
    decoding = Decoding(
        name="tuned",
        kind=defaults.decoding,
        alpha=defaults.alpha if is_cold else None,
        beta=defaults.beta if is_cold else None,
        by_divergence=is_cold and defaults.beta_rule == "divergence",
        amateur=amateur.name if is_cold else BASE,
        lora_scale=defaults.lora_scale,
    )
    marks = (items[at : at + _MARK] for at in range(0, len(items), _MARK))
    return Tuned(decoding, frozenset(marks))


def write_tuned(adapter: Path, decoding: Decoding, tuning: Mapping[str, Any]) -> Path:
    """Writes the file, in one move.

    Raises:
        EvaluationError: it cannot be written.
    """
    values: dict[str, Any] = {"decoding": decoding.kind}
    if decoding.kind == "cold":
        values |= {"alpha": decoding.alpha, "beta": decoding.beta}
        if decoding.by_divergence:
            values["beta_rule"] = "divergence"
        if rule := Amateur(decoding.amateur).rule:
            values["amateur"] = {k: v for k, v in asdict(rule).items() if v is not None}
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
