"""What a client asks for: read from the inputs of `cold` and checked. See docs/protocol.md."""

from __future__ import annotations

from dataclasses import dataclass

from cold_backend.requests.amateur import (
    Amateur,
)
from cold_backend.requests.beam import BeamSettings
from cold_backend.requests.fields import (
    MAX_WORD_BYTES,
    Inputs,
)
from cold_backend.requests.prompt import Prompt
from cold_backend.requests.sampling import Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """A valid request.

    Attributes:
        prompt: token ids.
        adapter: name; empty if nothing but the base is read.
        lora_scale: the adapter's strength: 1 is as trained, 0 is the base.
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
    adapter: str
    lora_scale: float
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
        lora_name: the adapter that must be served, which one with `decoding` base may name too.
        prompt: of `request`, before it is tokenised.
        amateur_prompt: likewise that of its amateur; None if it has none of its own.
        continuation: likewise; empty if the answer is free.
        inputs: the other fields.
        request: what can be said already: `prompt` and `continuation` are stand-ins where they are
            text, and what the request leaves to its adapter is what it is without one.
    """

    lora_name: str
    prompt: Prompt
    amateur_prompt: Prompt | None
    continuation: str
    inputs: Inputs
    request: GenerationRequest

    @property
    def text_bytes(self) -> int:
        """How much there is to be tokenised, about; 0 if there is nothing."""
        words = self.inputs["bad_words"].size if "bad_words" in self.inputs else 0
        prompts = [one.text_bytes for one in (self.prompt, self.amateur_prompt) if one]
        return sum(prompts) + len(self.continuation) + words * MAX_WORD_BYTES
