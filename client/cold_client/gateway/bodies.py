"""The bodies of requests, and the requests to the CoLD server that they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from .._exceptions import InvalidRequest
from .._types import Request
from .catalogue import Served

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


_Biases = Annotated[dict[int, float], BeforeValidator(_biases)]
_Alternatives = Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)]
_Strings = Annotated[list[str], BeforeValidator(_strings)]
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


# Inputs that bodies do not have, or not under their own names.
_NOT_HERE = {
    *("text_input", "messages", "input_ids", "continuation", "lora_name", "stop_words"),
    *("exclude_input_in_output", "return_log_probs", "return_finish_reason"),
    *("logit_bias", "top_logprobs"),
    *("return_num_input_tokens", "return_num_output_tokens", "return_num_cached_tokens"),
}
_SAME: dict[str, Any] = {
    name: (hint, None) for name, hint in get_type_hints(Request).items() if name not in _NOT_HERE
}
_Inputs: Any = create_model("_Inputs", __base__=Strict, **_SAME)


class Body(_Inputs):
    """What both endpoints share, with the inputs that have the same name here, OpenAI's or not.

    The server checks the ranges; None leaves the choice to it.
    """

    model: str
    max_tokens: int | None = None
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None
    stop: _Strings | None = None
    logit_bias: _Biases | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    bad_words: _Strings | None = None

    n: Annotated[Any, AfterValidator(Only((1,)))] = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def requests(self, served: Served) -> list[Request]:
        """The requests that this body means, for the model that it names. Raises InvalidRequest."""
        raise NotImplementedError

    def _inputs(self, served: Served) -> dict[str, Any]:
        """The inputs that do not depend on the endpoint. Raises InvalidRequest."""
        if self.stream_options and not self.stream:
            raise InvalidRequest("stream_options: only with stream", field="stream_options")
        inputs: dict[str, Any] = self.model_dump(include=set(_SAME))
        if served.adapter is None:
            if self.decoding not in (None, "base"):
                raise InvalidRequest(
                    f"decoding: must be base, {served.id!r} has no adapter, got {self.decoding}",
                    field="decoding",
                )
            inputs["decoding"] = "base"
        return inputs | {
            "lora_name": served.adapter,
            "stop_words": self.stop or None,
            "bad_words": self.bad_words or None,
            "logit_bias": self.logit_bias or None,
            "return_num_cached_tokens": True,
        }


class ChatBody(Body):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: _Alternatives | None = None

    tools: Annotated[Any, AfterValidator(Only(([],)))] = None
    tool_choice: Annotated[Any, AfterValidator(Only(("none",)))] = None
    parallel_tool_calls: Annotated[Any, AfterValidator(Only((False, True)))] = None
    response_format: Annotated[Any, AfterValidator(Only(({"type": "text"},)))] = None
    store: Annotated[Any, AfterValidator(Only((False,)))] = None

    def requests(self, served: Served) -> list[Request]:
        """One request. Raises InvalidRequest."""
        inputs = self._inputs(served)
        if self.max_completion_tokens is not None:
            if self.max_tokens is not None:
                raise InvalidRequest(
                    "max_tokens: not with max_completion_tokens", field="max_tokens"
                )
            inputs["max_tokens"] = self.max_completion_tokens
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs: only with logprobs", field="top_logprobs")
        inputs |= {
            "return_log_probs": self.logprobs or None,
            "top_logprobs": self.top_logprobs or None,
        }
        messages = [message.plain() for message in self.messages]
        return [Request(messages=messages, **inputs)]


class CompletionBody(Body):
    """The body of POST /v1/completions."""

    prompt: Annotated[list[str | list[int]], BeforeValidator(_prompts)]
    echo: bool | None = None

    logprobs: _Alternatives | None = None  # 0 lists the log-probabilities of the chosen tokens

    best_of: Annotated[Any, AfterValidator(Only((1,)))] = None
    suffix: Annotated[Any, AfterValidator(Only(("",)))] = None

    def requests(self, served: Served) -> list[Request]:
        """A request for each prompt. Raises InvalidRequest."""
        inputs = self._inputs(served)
        if self.stream and len(self.prompt) != 1:
            raise InvalidRequest(
                f"prompt: exactly one in a stream, got {len(self.prompt)}", field="prompt"
            )
        if self.echo and self.logprobs is not None:
            raise InvalidRequest("logprobs: not with echo", field="logprobs")
        inputs |= {
            "return_log_probs": None if self.logprobs is None else True,
            "top_logprobs": self.logprobs or None,
            "exclude_input_in_output": False if self.echo else None,
        }
        return [
            Request(text_input=prompt, **inputs)
            if isinstance(prompt, str)
            else Request(input_ids=prompt, **inputs)
            for prompt in self.prompt
        ]
