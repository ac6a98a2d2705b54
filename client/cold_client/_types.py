"""What goes to the server and what comes back, as frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

DecodingName = Literal["cold", "greedy", "base", "beam", "cold_beam"]
Stopping = Literal["true", "false", "never"]
BetaRule = Literal["fixed", "divergence"]


def _input(
    datatype: str, default: bool | None = None, *, option: str = "", many: bool = False
) -> Any:
    """A field of `Request`.

    Args:
        datatype: of the tensor.
        default: what is sent where nothing is said.
        option: what the command's option of this name does; without it there is none, or one of
            its own.
        many: whether the tensor is a list.
    """
    return field(default=default, metadata={"datatype": datatype, "option": option, "many": many})


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """The inputs of docs/protocol.md; None leaves the choice to the server.

    Exactly one of `text_input`, `messages` and `input_ids`. The server checks the values, and
    `stream` is not here because the method called decides it. The finish reason and the number of
    input tokens are asked for unless set to False: the first is how a whole HTTP stream is told
    from one that was cut off.

    Attributes:
        continuation: what the answer has to be; with `return_log_probs` its probability is told.
        lora_names: several adapters at once, up to 4, in place of `lora_name`.
        lora_scales: the strength of each of them; 1 is as trained.
        deadline_s: seconds from acceptance to the end of the answer, queueing included; above 0.
        logit_bias: token ids, and what is added to their logits; -100 to 100.
        top_logprobs: how many of the most probable tokens are told with each; 0 to 20.
        cache_salt: only requests with the same one share what was computed for their prompts.
        priority: 0 is served first, 1 is what the server takes without it, 2 is served last.
    """

    text_input: str | None = _input("BYTES")
    messages: Sequence[Mapping[str, str]] | None = _input("BYTES")
    input_ids: Sequence[int] | None = _input("INT64", many=True)
    continuation: str | None = _input("BYTES")
    lora_name: str | None = _input("BYTES")
    decoding: DecodingName | None = _input("BYTES")
    alpha: float | None = _input(
        "FP32",
        option="a token is valid from this share of the highest expert probability, (0, 1]",
    )
    beta: float | None = _input("FP32", option="strength of the contrast, from 0")
    beta_rule: BetaRule | None = _input(
        "BYTES", option="fixed, or divergence: beta times how far expert and amateur are apart"
    )
    lora_scale: float | None = _input("FP32", option="strength of the adapter, 1 is as trained")
    lora_names: Sequence[str] | None = _input("BYTES", many=True)
    lora_scales: Sequence[float] | None = _input("FP32", many=True)
    amateur_text_input: str | None = _input("BYTES", option="a prompt of the amateur's own")
    amateur_messages: Sequence[Mapping[str, str]] | None = _input("BYTES")
    amateur_input_ids: Sequence[int] | None = _input("INT64", many=True)
    amateur_last_tokens: int | None = _input(
        "INT32", option="the amateur sees so many of the prompt's last tokens"
    )
    amateur_lora_name: str | None = _input("BYTES", option="adapter of the amateur; empty: none")
    amateur_lora_scale: float | None = _input("FP32", option="its strength")
    cache_salt: str | None = _input("BYTES")
    beam_width: int | None = _input("INT32")
    length_penalty: float | None = _input("FP32")
    early_stopping: bool | Stopping | None = _input("BYTES")
    temperature: float | None = _input("FP32", option="0 takes the best token, above 0 samples")
    top_k: int | None = _input("INT32", option="0 is off")
    top_p: float | None = _input("FP32", option="1 is off")
    min_p: float | None = _input("FP32", option="0 is off")
    repetition_penalty: float | None = _input("FP32", option="1 is off")
    presence_penalty: float | None = _input("FP32", option="0 is off")
    frequency_penalty: float | None = _input("FP32", option="0 is off")
    logit_bias: Mapping[int, float] | None = _input("BYTES")
    seed: int | None = _input("UINT64", option="same seed and request, same tokens")
    max_tokens: int | None = _input("INT32", option="most tokens to generate")
    min_tokens: int | None = _input("INT32", option="no end of sequence before")
    stop_words: Sequence[str] | None = _input("BYTES", many=True)
    bad_words: Sequence[str] | None = _input("BYTES", many=True)
    ignore_eos: bool | None = _input("BOOL")
    exclude_input_in_output: bool | None = _input("BOOL")
    deadline_s: float | None = _input("FP32")
    priority: int | None = _input("INT32")
    return_log_probs: bool | None = _input("BOOL")
    top_logprobs: int | None = _input(
        "INT32", option="add so many of the most probable tokens to --json"
    )
    return_finish_reason: bool | None = _input("BOOL", True)
    return_num_input_tokens: bool | None = _input("BOOL", True)
    return_num_output_tokens: bool | None = _input("BOOL")
    return_num_cached_tokens: bool | None = _input("BOOL")
    return_contrast: bool | None = _input("BOOL")


@dataclass(frozen=True, slots=True)
class Alternative:
    """One of the most probable tokens in the place of an output token.

    Attributes:
        token_id: the token, which may be the output's own.
        log_prob: the expert's own log-probability of it; the base's with `decoding` base.
    """

    token_id: int
    log_prob: float


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
    num_cached_tokens: int | None = None
    log_probs: tuple[float, ...] = ()
    decoding_log_probs: tuple[float, ...] = ()
    alternatives: tuple[tuple[Alternative, ...], ...] = ()
    contrast: tuple[TokenContrast, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A whole answer, or what had come of it.

    Attributes:
        finish_reason: `stop`, `length` or `cancelled`; None if not asked for or not reached.
        num_output_tokens: length of `token_ids`.
        num_cached_tokens: of the prompt, those that were not computed again; None if not asked for.
        decoding_log_probs: of each token of a `continuation` under its decoding.
        alternatives: of each token, as many as `top_logprobs` asked for, best first.
        ttft_s: seconds from the request to the first token; without streaming, to the answer.
        latency_s: seconds from the request to the last piece.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None
    num_input_tokens: int | None
    num_output_tokens: int
    num_cached_tokens: int | None
    log_probs: tuple[float, ...]
    decoding_log_probs: tuple[float, ...]
    alternatives: tuple[tuple[Alternative, ...], ...]
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
    adapter_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    base_model: str | None = None
    max_context: int | None = None
