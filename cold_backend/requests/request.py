"""What a client asks for: read from the inputs of `cold` and checked. See docs/protocol.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cold_backend.adapters.defaults import NO_DEFAULTS, AdapterDefaults
from cold_backend.adapters.served import ServedAdapter
from cold_backend.errors import InvalidRequestError
from cold_backend.requests.amateur import NAME as AMATEUR_NAME
from cold_backend.requests.amateur import Amateur, uses_rule
from cold_backend.requests.beam import BeamSettings
from cold_backend.requests.fields import MAX_WORD_BYTES, Inputs
from cold_backend.requests.mixture import NAMES, Mixture
from cold_backend.requests.prompt import Prompt
from cold_backend.requests.sampling import Sampling

AMATEUR_KINDS = ("base", "prompt", "adapter")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """A valid request.

    Attributes:
        prompt: token ids.
        adapters: the expert's by name, and their strengths: 1 is as trained, 0 is the base; none if
            nothing but the base is read.
        mixes: whether they were named as several.
        amateur: what a contrast is with; None is the base for the same prompt.
        cache_salt: only requests with the same one share what has been computed for a prompt.
        logit_bias: tokens, and what is added to their logits.
        beam: how to search with beams; None with other decodings.
        continuation: token ids that the answer has to be; empty if it is free.
        bad_words: token sequences that must not come up.
        echo: text to put before the output.
        priority: 0 is served first, 2 last.
        top_logprobs: how many alternatives are told with each token.
        deadline_s: seconds from acceptance to the end of the answer; may be infinite.
    """

    prompt: tuple[int, ...]
    adapters: Mixture
    mixes: bool
    amateur: Amateur | None
    cache_salt: str
    decoding: str
    sampling: Sampling
    logit_bias: tuple[tuple[int, float], ...]
    beam: BeamSettings | None
    continuation: tuple[int, ...]
    max_tokens: int
    min_tokens: int
    stop_words: tuple[str, ...]
    bad_words: tuple[tuple[int, ...], ...]
    ignore_eos: bool
    stream: bool
    echo: str
    priority: int
    deadline_s: float
    return_log_probs: bool
    top_logprobs: int
    return_finish_reason: bool
    return_num_input_tokens: bool
    return_num_output_tokens: bool
    return_num_cached_tokens: bool
    return_contrast: bool

    @property
    def adapter(self) -> str:
        """Name of the adapter that it counts for, of several the first; empty for the base."""
        return self.adapters[0][0] if self.adapters else ""

    @property
    def amateur_kind(self) -> str:
        """What tells the amateur from the expert, of AMATEUR_KINDS: that it is the base, a prompt
        of its own, or an adapter."""
        if self.amateur and self.amateur.prompt is not self.prompt:
            return "prompt"
        return "adapter" if self.amateur and self.amateur.adapters else "base"

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """Of all that it needs, the amateur's as well."""
        of_amateur = self.amateur.adapters if self.amateur else ()
        return tuple(dict.fromkeys(name for name, _ in (*self.adapters, *of_amateur)))

    def field_of(self, adapter: str) -> str:
        """The field that names an adapter which it needs."""
        if adapter not in dict(self.adapters):
            return AMATEUR_NAME
        return NAMES if self.mixes else "lora_name"

    @property
    def longest_prompt(self) -> int:
        """Tokens of its prompt, or of the amateur's if that is longer."""
        return max(len(self.prompt), len(self.amateur.prompt) if self.amateur else 0)

    @property
    def width(self) -> int:
        """Hypotheses that it may have at once."""
        return self.beam.width if self.beam else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A request whose fields have been checked and whose text has not been tokenised.

    Attributes:
        lora_names: the expert's adapters, which must be served with `decoding` base too.
        prompt: of `request`, before it is tokenised.
        amateur_prompt: likewise that of its amateur; None if it has none of its own.
        continuation: likewise; empty if the answer is free.
        inputs: the other fields.
        request: what can be said already: `prompt` and `continuation` are stand-ins where they are
            text, and what the request leaves to its adapter is what it is without one.
    """

    lora_names: tuple[str, ...]
    prompt: Prompt
    amateur_prompt: Prompt | None
    continuation: str
    inputs: Inputs
    request: GenerationRequest

    def missing(self, found: Mapping[str, ServedAdapter]) -> str | None:
        """The name of an adapter that it needs beside those found; None if there is none."""
        amateurs = [name for name in self.request.adapter_names if name not in self.lora_names]
        defaults = self.defaults(found)
        if defaults.amateur and defaults.amateur.lora_name and uses_rule(self.inputs, defaults):
            amateurs.append(defaults.amateur.lora_name)
        return next((one for one in (*self.lora_names, *amateurs) if one not in found), None)

    def blame(self, adapter: str, error: InvalidRequestError) -> InvalidRequestError:
        """What is wrong with an adapter that it needs, as an error of what named it."""
        if adapter in self.lora_names:
            return error.at(NAMES if self.request.mixes else "lora_name")
        if adapter in self.request.adapter_names:
            return error.at(AMATEUR_NAME)
        (own,) = self.lora_names
        return InvalidRequestError(
            "lora_name", f"adapter {own}: cold.json: amateur: {error.message}"
        )

    def defaults(self, found: Mapping[str, ServedAdapter]) -> AdapterDefaults:
        """Those of its adapter, as far as it is found; adapters named as several have none."""
        if self.request.mixes or not self.lora_names or self.lora_names[0] not in found:
            return NO_DEFAULTS
        return found[self.lora_names[0]].defaults

    @property
    def text_bytes(self) -> int:
        """How much there is to be tokenised, about; 0 if there is nothing."""
        words = self.inputs["bad_words"].size if "bad_words" in self.inputs else 0
        prompts = [one.text_bytes for one in (self.prompt, self.amateur_prompt) if one]
        return sum(prompts) + len(self.continuation) + words * MAX_WORD_BYTES
