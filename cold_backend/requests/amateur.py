"""What a request contrasts with: the base for the same prompt, unless it says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from cold_backend.config import Settings
from cold_backend.errors import InvalidRequestError
from cold_backend.requests.fields import Inputs, read_integer, read_name, read_number
from cold_backend.requests.prompt import Prompt, read_prompt_field
from cold_kernels import Mode

_LAST = "amateur_last_tokens"
_PROMPTS = ("amateur_text_input", "amateur_messages", "amateur_input_ids", _LAST)  # at most one
_NAME = "amateur_lora_name"
_SCALE = "amateur_lora_scale"


@dataclass(frozen=True, slots=True, kw_only=True)
class Amateur:
    """What the expert is contrasted with.

    Attributes:
        prompt: token ids.
        has_adapter: whether it has the expert's adapter, or none.
        lora_scale: the adapter's strength.
    """

    prompt: tuple[int, ...]
    has_adapter: bool
    lora_scale: float


def has_own_prompt(inputs: Inputs) -> bool:
    """Whether the amateur sees another prompt than the expert."""
    return any(name in inputs for name in _PROMPTS)


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
    adapter: str,
    lora_scale: float,
    prompt: tuple[int, ...],
    own_prompt: tuple[int, ...],
) -> Amateur | None:
    """What to contrast with; None is the base for the same prompt.

    Args:
        inputs: of the request.
        mode: what the decoding looks at.
        adapter: name of the expert's, empty if it has none.
        lora_scale: its strength.
        prompt: the expert's.
        own_prompt: that the request gives the amateur; empty if it gives none.

    Raises:
        InvalidRequestError: a field is out of range, or means nothing here.
    """
    given = [name for name in (*_PROMPTS, _NAME, _SCALE) if name in inputs]
    if not given:
        return None
    if mode is not Mode.COLD:
        raise InvalidRequestError(given[0], "only with decoding cold or cold_beam")
    has_adapter = bool(adapter) and has_own_prompt(inputs)
    if _NAME in inputs:
        name = read_name(inputs, _NAME)
        if name not in ("", adapter):
            own = f" or {adapter}, the expert's" if adapter else ""
            raise InvalidRequestError(_NAME, f"must be empty{own}, got {name!r}")
        has_adapter = bool(name)
    if _SCALE in inputs and not has_adapter:
        raise InvalidRequestError(_SCALE, "the amateur has no adapter")
    scale = read_number(inputs, _SCALE, lora_scale)
    if _LAST in inputs:
        own_prompt = prompt[-read_integer(inputs, _LAST) :]
    return Amateur(prompt=own_prompt or prompt, has_adapter=has_adapter, lora_scale=scale)
