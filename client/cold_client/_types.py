"""What goes to the server and what comes back, as frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """The inputs of docs/protocol.md; None leaves the choice to the server.

    Exactly one of `text_input`, `messages` and `input_ids`. The server checks the values, and
    `stream` is not here because the method called decides it. The finish reason and the number of
    input tokens are asked for unless set to False: the first is how a whole HTTP stream is told
    from one that was cut off.

    Attributes:
        continuation: what the answer has to be; with `return_log_probs` its probability is told.
        deadline_s: seconds from acceptance to the end of the answer, queueing included; above 0.
        priority: 0 is served first, 1 is what the server takes without it, 2 is served last.
    """

    text_input: str | None = None
    messages: Sequence[Mapping[str, str]] | None = None
    input_ids: Sequence[int] | None = None
    continuation: str | None = None
    lora_name: str | None = None
    decoding: Literal["cold", "greedy", "base", "beam", "cold_beam"] | None = None
    alpha: float | None = None
    beta: float | None = None
    beam_width: int | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["true", "false", "never"] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    stop_words: Sequence[str] | None = None
    bad_words: Sequence[str] | None = None
    ignore_eos: bool | None = None
    exclude_input_in_output: bool | None = None
    deadline_s: float | None = None
    priority: int | None = None
    return_log_probs: bool | None = None
    return_finish_reason: bool | None = True
    return_num_input_tokens: bool | None = True
    return_num_output_tokens: bool | None = None
    return_contrast: bool | None = None


@dataclass(frozen=True, slots=True)
class TokenContrast:
    """How expert and base saw one output token.

    Attributes:
        expert_log_prob: the expert's own log-probability of the token.
        base_log_prob: the base's own.
        valid_count: tokens in the valid set; above 1 the choice was contested.
        changed: whether the token differs from the expert's own best.
        expert_text: text of that best one, where it differs.
    """

    expert_log_prob: float
    base_log_prob: float
    valid_count: int
    changed: bool
    expert_text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One response of a stream: what came since the last one.

    `finish_reason` and the counts are None, and the tuples empty, where not asked for; the finish
    reason comes with the last piece. A token's text may come in a later piece than its id.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: str | None = None
    num_input_tokens: int | None = None
    num_output_tokens: int | None = None
    log_probs: tuple[float, ...] = ()
    decoding_log_probs: tuple[float, ...] = ()
    contrast: tuple[TokenContrast, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A whole answer, or what had come of it.

    Attributes:
        finish_reason: `stop`, `length` or `cancelled`; None if not asked for or not reached.
        num_output_tokens: length of `token_ids`.
        decoding_log_probs: of each token of a `continuation` under its decoding.
        ttft_s: seconds from the request to the first token; without streaming, to the answer.
        latency_s: seconds from the request to the last piece.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None
    num_input_tokens: int | None
    num_output_tokens: int
    log_probs: tuple[float, ...]
    decoding_log_probs: tuple[float, ...]
    contrast: tuple[TokenContrast, ...]
    ttft_s: float
    latency_s: float

    @property
    def ms_per_token(self) -> float | None:
        """Milliseconds of the whole request per output token; None without tokens."""
        return 1000 * self.latency_s / self.num_output_tokens if self.num_output_tokens else None

    @property
    def num_contested(self) -> int:
        """Tokens for which more than one was valid; 0 without `return_contrast`."""
        return sum(token.valid_count > 1 for token in self.contrast)

    @property
    def num_changed(self) -> int:
        """Tokens that differ from the expert's own best; 0 without `return_contrast`."""
        return sum(token.changed for token in self.contrast)


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """What the server says about itself.

    Attributes:
        live: the server answers.
        ready: all its models can be used.
        model_ready: the model `cold` can be used.
    """

    live: bool
    ready: bool
    model_ready: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model of the server's repository.

    `adapters` and what follows is known for the model `cold` only, and empty or None where its
    configuration does not say. `max_context` is in tokens. With `adapters_dir` the server may serve
    other adapters than these, which it reads from a folder when a request names one.
    `adapter_defaults` has, by adapter, what requests get that do not say otherwise.
    """

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""
    adapters: tuple[str, ...] = ()
    adapters_dir: bool = False
    default_adapter: str | None = None
    adapter_defaults: Mapping[str, Mapping[str, str | float]] = field(default_factory=dict)
    base_model: str | None = None
    max_context: int | None = None
