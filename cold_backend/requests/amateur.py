"""What a request contrasts with: the base for the same prompt, unless it says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cold_backend.adapters.defaults import AdapterDefaults, AmateurRule
from cold_backend.config import Settings
from cold_backend.errors import InvalidRequestError
from cold_backend.requests.fields import Inputs, read_integer, read_name, read_number
from cold_backend.requests.mixture import Mixture
from cold_backend.requests.prompt import Prompt, read_prompt_field
from cold_backend.requests.sampling import mode_of, read_decoding
from cold_kernels import Mode

_LAST = "amateur_last_tokens"
_PROMPTS = ("amateur_text_input", "amateur_messages", "amateur_input_ids", _LAST)  # at most one
NAME = "amateur_lora_name"
_SCALE = "amateur_lora_scale"
_FIELDS = (*_PROMPTS, NAME, _SCALE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Amateur:
    """What the expert is contrasted with.

    Attributes:
        prompt: token ids.
        adapters: by name, with their strengths; none is the base.
    """

    prompt: tuple[int, ...]
    adapters: Mixture


def stands_alone(inputs: Inputs) -> bool:
    """Whether the amateur differs from the expert even where that has no adapter."""
    return any(name in inputs for name in _PROMPTS) or bool(read_name(inputs, NAME))


def uses_rule(inputs: Inputs, defaults: AdapterDefaults) -> bool:
    """Whether the adapter's rule says what to contrast with, because the request does not."""
    contrasts = mode_of(read_decoding(inputs, defaults)) is Mode.COLD
    return bool(defaults.amateur) and contrasts and not any(name in inputs for name in _FIELDS)


def inputs_by_rule(rule: AmateurRule, adapter: str) -> Inputs:
    """The fields that say what an adapter's rule does, but for prompts."""
    found: dict[str, object] = {}
    name = rule.lora_name
    if name is None and rule.lora_scale is not None:
        name = adapter  # which does not know what it is called
    if rule.last_tokens is not None:
        found[_LAST] = rule.last_tokens
    if name is not None:
        found[NAME] = name.encode()
    if rule.lora_scale is not None:
        found[_SCALE] = rule.lora_scale
    return {name: np.array([value], _TYPES[name]) for name, value in found.items()}


_TYPES = {_LAST: np.int32, NAME: np.object_, _SCALE: np.float32}


def read_amateur_prompt(inputs: Inputs, settings: Settings, vocabulary: int) -> Prompt | None:
    """The prompt that the request gives the amateur; None if it gives none.

    Raises:
        InvalidRequestError: there are several, or it is empty, malformed or too large.
    """
    given = [name for name in _PROMPTS if name in inputs]
    if len(given) > 1:
        raise InvalidRequestError(given[1], f"not with {given[0]}")
    if not given or given == [_LAST]:
        return None
    return read_prompt_field(inputs, given[0], settings, vocabulary)


def read_amateur(
    inputs: Inputs,
    *,
    mode: Mode,
    expert: Mixture,
    prompt: tuple[int, ...],
    own_prompt: tuple[int, ...],
) -> Amateur | None:
    """What to contrast with; None is the base for the same prompt.

    Args:
        inputs: of the request.
        mode: what the decoding looks at.
        expert: the expert's adapters.
        prompt: the expert's.
        own_prompt: that the amateur has; empty if none is given.

    Raises:
        InvalidRequestError: a field is out of range, or means nothing here.
    """
    given = [name for name in _FIELDS if name in inputs]
    if not given and not own_prompt:
        return None
    if mode is not Mode.COLD:
        raise InvalidRequestError(given[0], "only with decoding cold or cold_beam")
    if _LAST in inputs:
        own_prompt = prompt[-read_integer(inputs, _LAST) :]
    adapters = _named(inputs, expert) if NAME in inputs else expert if own_prompt else ()
    return Amateur(prompt=own_prompt or prompt, adapters=_scaled(inputs, adapters))


def _named(inputs: Inputs, expert: Mixture) -> Mixture:
    name = read_name(inputs, NAME)
    if not name:
        return ()
    return ((name, dict(expert).get(name, 1.0)),)


def _scaled(inputs: Inputs, adapters: Mixture) -> Mixture:
    if _SCALE not in inputs:
        return adapters
    if len(adapters) != 1:
        whose = "several adapters" if adapters else "no adapter"
        raise InvalidRequestError(_SCALE, f"the amateur has {whose}")
    return ((adapters[0][0], read_number(inputs, _SCALE)),)
