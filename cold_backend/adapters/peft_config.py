"""What a PEFT adapter says of itself: adapter_config.json, read without PEFT.

PEFT would ignore what it does not know and check no types; here, an option that might change the
decoding is refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from cold_backend.adapters.files import AdapterFile

MAX_RANK = 4096
_MAX_ALPHA = 1e6
# Options that say where an adapter comes from and how it was trained.
_HARMLESS = frozenset(
    (
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
    )
)
_OFF = {"bias": "none"}
_ALTERS_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")
_MAX_PATTERN = 256
_QUANTIFIERS = re.compile(r"[*+?{]")
_QUANTIFIED_GROUP = re.compile(r"\)[*+?{]")

Json = dict[str, Any]
_Patterns = tuple[tuple[re.Pattern[str], float], ...]


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """How strong the pairs of an adapter are, and of which rank."""

    _rank: float
    _ranks: _Patterns
    _alpha: float
    _alphas: _Patterns
    _uses_rslora: bool

    def rank(self, layer: str) -> float:
        """Of a layer's pair."""
        return _matching(self._ranks, layer, self._rank)

    def scale(self, layer: str) -> float:
        """Of a layer's pair."""
        rank = self.rank(layer)
        alpha = _matching(self._alphas, layer, self._alpha)
        return alpha / (math.sqrt(rank) if self._uses_rslora else rank)


def read_adapter_config(file: AdapterFile) -> AdapterConfig:
    """Reads the file of an adapter.

    Raises:
        ConfigError: it is broken, or the adapter is not plain LoRA.
        AdapterUnreadableError: it could not be read, but may be later.
    """
    values = file.read_json()
    try:
        return _config(values)
    except (ValueError, RecursionError) as error:
        raise file.problem(str(error)[:200]) from error


def _config(values: Json) -> AdapterConfig:
    _check_kind(values)
    uses_rslora = values.get("use_rslora", False)
    if not isinstance(uses_rslora, bool):
        raise ValueError("use_rslora: must be true or false")
    return AdapterConfig(
        _rank=_rank("r", values.get("r", 8)),
        _ranks=_patterns(values, "rank_pattern"),
        _alpha=_alpha("lora_alpha", values.get("lora_alpha", 8)),
        _alphas=_patterns(values, "alpha_pattern"),
        _uses_rslora=uses_rslora,
    )


def _check_kind(values: Json) -> None:
    kind = values.get("peft_type")
    if kind != "LORA":
        raise ValueError(f"only LoRA can be served, this is {str(kind)[:64]}")
    start = values.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_ALTERS_BASE):
        raise ValueError(f"init_lora_weights {start[:64]} changes the base model; convert it first")
    used = [
        o for o, value in values.items() if value and value != _OFF.get(o) and o not in _HARMLESS
    ]
    if used:
        raise ValueError(f"LoRA with {', '.join(used)[:200]} cannot be served")


def _patterns(values: Json, option: str) -> _Patterns:
    """Numbers by the ends of the layers' paths that they are for, which are regular expressions."""
    given = values.get(option) or {}
    if not isinstance(given, dict):
        raise ValueError(f"{option}: must be an object")
    check = _rank if option == "rank_pattern" else _alpha
    return tuple((_compiled(option, key), check(option, value)) for key, value in given.items())


def _compiled(option: str, key: str) -> re.Pattern[str]:
    # Without groups that repeat, matching cannot take exponentially long.
    simple = len(_QUANTIFIERS.findall(key)) <= 2 and not _QUANTIFIED_GROUP.search(key)
    if len(key) > _MAX_PATTERN or not simple:
        raise ValueError(f"{option}: {key[:64]!r} is not a simple pattern")
    try:
        return re.compile(rf"(.*\.)?({key})$")
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{option}: {key[:64]!r}: {error}") from error


def _matching(patterns: _Patterns, layer: str, default: float) -> float:
    return next((number for pattern, number in patterns if pattern.match(layer)), default)


def _rank(option: str, value: object) -> float:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise ValueError(f"{option}: must be between 1 and {MAX_RANK}")
    return value


def _alpha(option: str, value: object) -> float:
    if type(value) not in (int, float) or not abs(value) <= _MAX_ALPHA:  # type: ignore[arg-type]
        raise ValueError(f"{option}: must be between {-_MAX_ALPHA:.0f} and {_MAX_ALPHA:.0f}")
    return value  # type: ignore[return-value]
