"""The parts of bodies: messages, prompts, what is off, and the amateur."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

MAX_MESSAGES = 1024  # as the server
MAX_ALTERNATIVES = 20  # likewise
MAX_PROMPTS = 32  # of one body; each is a request of its own to the server


@dataclass(frozen=True, slots=True, eq=False)  # equal ones, 0 and False, would share an annotation
class Only:
    """A validator of OpenAI's fields that have nothing behind them here: null, or what is off."""

    allowed: tuple[Any, ...] = ()

    def __call__(self, value: Any) -> Any:
        if value is None or any(type(value) is type(v) and value == v for v in self.allowed):
            return value
        if not self.allowed:
            raise PydanticCustomError("unsupported", "not supported here")
        allowed = " or ".join(map(repr, self.allowed))
        raise PydanticCustomError(
            "unsupported", "only {allowed} is supported", {"allowed": allowed}
        )


def _strings(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _text(value: Any) -> Any:
    """The text of a message; parts stand on lines of their own."""
    if not isinstance(value, list):
        return value
    value = [_without_nulls(part) for part in value]
    for part in value:
        good = isinstance(part, dict) and set(part) == {"type", "text"} and part["type"] == "text"
        if not (good and isinstance(part["text"], str)):
            raise PydanticCustomError("part", 'a part must be {"type": "text", "text": string}')
    return "\n".join(part["text"] for part in value)


def _prompts(value: Any) -> list[str | list[int]]:
    """One or many prompts, as text or token ids, as a list."""
    prompts = value if isinstance(value, list) and not _is_ids(value) else [value]
    if not prompts or not all(isinstance(prompt, str) or _is_ids(prompt) for prompt in prompts):
        raise PydanticCustomError("prompt", "must be a string, token ids, or a list of them")
    if len(prompts) > MAX_PROMPTS:
        raise PydanticCustomError("prompt", "at most {most} prompts", {"most": MAX_PROMPTS})
    return prompts


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _without_nulls(value: Any) -> Any:
    """A JSON object without its fields that are null: null is as good as absent."""
    if not isinstance(value, dict):
        return value
    return {name: field for name, field in value.items() if field is not None}


def _biases(value: Any) -> Any:
    """Token ids, which JSON has as strings, and numbers."""
    if not isinstance(value, dict) or not all(map(str.isdecimal, value)):
        raise PydanticCustomError("logit_bias", "must be an object of token ids and numbers")
    return {int(token): bias for token, bias in value.items()}


Biases = Annotated[dict[int, float], BeforeValidator(_biases)]
Alternatives = Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)]
Prompts = Annotated[list[str | list[int]], BeforeValidator(_prompts)]
Strings = Annotated[list[str], BeforeValidator(_strings)]
_STRICT = ConfigDict(strict=True, extra="forbid", frozen=True)


class Strict(BaseModel):
    """A JSON object with known fields, in which null is as good as absent."""

    model_config = _STRICT

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        return _without_nulls(value)


class Message(Strict):
    """One message of a chat. `developer` is what OpenAI calls `system` in newer models."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_text)]

    # Of answers that are sent back.
    tool_calls: Annotated[Any, AfterValidator(Only(([],)))] = None
    annotations: Annotated[Any, AfterValidator(Only(([],)))] = None

    def plain(self) -> dict[str, str]:
        """The message as chat templates know it."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.content}


class StreamOptions(Strict):
    """What a stream shall also carry."""

    include_usage: bool | None = None


class AmateurFields(Strict):
    """What CoLD contrasts with: the `amateur_` inputs of the server, without that word.

    Attributes:
        model: an adapter's name; empty for none.
        prompt: as text or token ids.
    """

    model: str | None = None
    lora_scale: float | None = None
    prompt: str | list[int] | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    last_tokens: int | None = None

    def inputs(self) -> dict[str, Any]:
        """The inputs that they mean."""
        given = self.prompt
        messages = None if self.messages is None else [one.plain() for one in self.messages]
        return {
            "amateur_text_input": given if isinstance(given, str) else None,
            "amateur_input_ids": None if isinstance(given, str) else given,
            "amateur_messages": messages,
            "amateur_last_tokens": self.last_tokens,
            "amateur_lora_name": self.model,
            "amateur_lora_scale": self.lora_scale,
        }
