"""The bodies of requests, and the requests to the CoLD server that they mean."""

from __future__ import annotations

from typing import Annotated, Any, get_type_hints

from pydantic import (
    AfterValidator,
    Field,
    create_model,
)

from .._exceptions import InvalidRequest
from .._types import Request
from .catalogue import Served
from .parts import (
    MAX_MESSAGES,
    Alternatives,
    AmateurFields,
    Biases,
    Message,
    Only,
    Prompts,
    StreamOptions,
    Strict,
    Strings,
)

# Inputs that bodies do not have, or not under their own names.
_NOT_HERE = {
    *("text_input", "messages", "input_ids", "continuation", "lora_name", "stop_words"),
    *("exclude_input_in_output", "return_log_probs", "return_finish_reason"),
    *("logit_bias", "top_logprobs"),
    *("return_num_input_tokens", "return_num_output_tokens", "return_num_cached_tokens"),
    *AmateurFields().inputs(),
}
_PROMPTS_OF_AMATEURS = [name for name in AmateurFields().inputs() if "lora" not in name]
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
    stop: Strings | None = None
    logit_bias: Biases | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    bad_words: Strings | None = None
    amateur: AmateurFields | None = None
    # As transformers' `generate` has them.
    negative_prompt: Annotated[str, Field(min_length=1)] | None = None
    guidance_scale: Annotated[float, Field(ge=1)] | None = None

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
        inputs: dict[str, Any] = self.model_dump(include=set(_SAME)) | self._contrast()
        of_amateur = inputs.get("amateur_lora_name") or ""
        has_amateur = any(inputs.get(name) is not None for name in _PROMPTS_OF_AMATEURS)
        if self.lora_names is not None:
            if served.adapter is not None:
                raise InvalidRequest(
                    f"lora_names: only with a model that has no adapter, not {served.id!r}",
                    field="lora_names",
                )
        elif served.adapter is None and (has_amateur or of_amateur):
            # Whatever the server's default adapter is: at no strength the expert is the base.
            scale = inputs.get("amateur_lora_scale")
            inputs |= {"lora_scale": 0.0, "amateur_lora_name": of_amateur}
            inputs["amateur_lora_scale"] = 1.0 if of_amateur and scale is None else scale
        elif served.adapter is None:
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

    def _contrast(self) -> dict[str, Any]:
        """The inputs that say what to contrast with, and how strongly. Raises InvalidRequest."""
        guides = self.negative_prompt is not None or self.guidance_scale is not None
        if guides and self.amateur is not None:
            raise InvalidRequest(
                "amateur: not with negative_prompt or guidance_scale", field="amateur"
            )
        if not guides:
            return self.amateur.inputs() if self.amateur else {}
        if self.beta is not None and self.guidance_scale is not None:
            raise InvalidRequest("beta: not with guidance_scale", field="beta")
        found: dict[str, Any] = {"decoding": self.decoding or "cold"}
        if self.guidance_scale is not None:
            found["beta"] = self.guidance_scale - 1
        if self.negative_prompt is None:
            return found | {"amateur_last_tokens": 1}
        return found | self._negative(self.negative_prompt)

    def _negative(self, prompt: str) -> dict[str, Any]:
        """The amateur's prompt for a negative one."""
        raise NotImplementedError


class ChatBody(Body):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None

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

    def _negative(self, prompt: str) -> dict[str, Any]:
        """It stands in the place of the system message."""
        plain = [message.plain() for message in self.messages]
        others = [one for one in plain if one["role"] != "system"]
        return {"amateur_messages": [{"role": "system", "content": prompt}, *others]}


class CompletionBody(Body):
    """The body of POST /v1/completions."""

    prompt: Prompts
    echo: bool | None = None

    logprobs: Alternatives | None = None  # 0 lists the log-probabilities of the chosen tokens

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

    def _negative(self, prompt: str) -> dict[str, Any]:
        """It stands in the place of the prompt."""
        return {"amateur_text_input": prompt}
