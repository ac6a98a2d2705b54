"""What a client asks for: read from the inputs of `cold` and checked. See docs/protocol.md."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from cold_backend.adapter_catalogue import check_served
from cold_backend.adapter_defaults import AdapterDefaults, FindDefaults, no_defaults
from cold_backend.beam import BeamSettings
from cold_backend.beam_fields import read_beam
from cold_backend.config import Settings
from cold_backend.errors import InvalidRequestError
from cold_backend.fields import (
    PLAIN,
    STRONGEST,
    Inputs,
    check_off,
    read_flag,
    read_integer,
    read_messages,
    read_name,
    read_number,
    read_text,
    read_words,
)
from cold_backend.tokenizer import Tokenizer
from cold_kernels import Mode

DEFAULT_MAX_TOKENS = 256
_MODES = {
    "cold": Mode.COLD,
    "greedy": Mode.EXPERT,
    "base": Mode.BASE,
    "beam": Mode.EXPERT,
    "cold_beam": Mode.COLD,
}
_PROMPTS = ("text_input", "messages", "input_ids")
_OF_A_FREE_ANSWER = ("max_tokens", "min_tokens", "stop_words", "bad_words")
_INT32_MAX = 2**31 - 1
_INFINITY = float("inf")
_WEAKEST = 1 / STRONGEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a token is picked; the fields are the inputs of the same name."""

    mode: Mode
    alpha: float
    beta: float
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int

    @property
    def penalises(self) -> bool:
        """Whether earlier tokens change the scores."""
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """A valid request.

    Attributes:
        prompt: token ids.
        adapter: name, empty with `decoding` base.
        beam: how to search with beams; None with other decodings.
        continuation: token ids that the answer has to be; empty if it is free.
        bad_words: token sequences that must not come up.
        echo: text to put before the output.
        priority: 0 is served first, 2 last.
        deadline_s: seconds from acceptance to the end of the answer; may be infinite.
    """

    prompt: tuple[int, ...]
    adapter: str
    decoding: str
    sampling: Sampling
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
    return_finish_reason: bool
    return_num_input_tokens: bool
    return_num_output_tokens: bool
    return_contrast: bool


class RequestParser:
    """Turns the inputs of `cold` into requests.

    Args:
        settings: which adapters there are, and how long a sequence may be.
        tokenizer: the base model's.
        defaults: of each adapter.
    """

    def __init__(
        self, settings: Settings, tokenizer: Tokenizer, defaults: FindDefaults = no_defaults
    ) -> None:
        self._settings = settings
        self._tokenizer = tokenizer
        self._defaults = defaults

    def parse(self, inputs: Inputs) -> GenerationRequest:
        """Reads and checks one request.

        Args:
            inputs: arrays by input name, of the data types that config.pbtxt declares.

        Raises:
            InvalidRequestError: a field is missing, malformed or out of range.
            UnknownAdapterError: no adapter of that name is served.
        """
        defaults = self._defaults_for(inputs)
        decoding = _decoding(inputs, defaults)
        sampling = _sampling(inputs, _MODES[decoding], defaults)
        prompt = self._prompt(inputs)
        room = self._settings.max_context - len(prompt)
        continuation = self._continuation(inputs, room)
        default = len(continuation) or min(DEFAULT_MAX_TOKENS, room)
        max_tokens = read_integer(inputs, "max_tokens", default, 1, room)
        bad_words = read_words(inputs, "bad_words")
        beam = read_beam(inputs, decoding, self._settings.max_sequences)
        if beam and continuation:
            raise InvalidRequestError("continuation", f"not with decoding {decoding}")
        return_contrast = read_flag(inputs, "return_contrast", False)
        if return_contrast and sampling.mode is Mode.BASE:
            raise InvalidRequestError("return_contrast", "not available with decoding base")
        excluded = read_flag(inputs, "exclude_input_in_output", True)
        return GenerationRequest(
            prompt=tuple(prompt),
            adapter=self._adapter(inputs, sampling.mode),
            decoding=decoding,
            sampling=sampling,
            beam=beam,
            continuation=continuation,
            max_tokens=max_tokens,
            min_tokens=read_integer(inputs, "min_tokens", 0, 0, max_tokens),
            stop_words=read_words(inputs, "stop_words"),
            bad_words=tuple(ids for word in bad_words for ids in self._spellings(word)),
            ignore_eos=read_flag(inputs, "ignore_eos", False) or bool(continuation),
            stream=read_flag(inputs, "stream", False),
            echo="" if excluded else self._echo(inputs, prompt),
            priority=read_integer(inputs, "priority", 1, 0, 2),
            deadline_s=_deadline(inputs),
            return_log_probs=read_flag(inputs, "return_log_probs", False),
            return_finish_reason=read_flag(inputs, "return_finish_reason", False),
            return_num_input_tokens=read_flag(inputs, "return_num_input_tokens", False),
            return_num_output_tokens=read_flag(inputs, "return_num_output_tokens", False),
            return_contrast=return_contrast,
        )

    def _prompt(self, inputs: Inputs) -> list[int]:
        given = [name for name in _PROMPTS if name in inputs]
        if len(given) != 1:
            came = " and ".join(given) or "none"
            raise InvalidRequestError(
                "text_input", f"exactly one of {', '.join(_PROMPTS)} is needed, got {came}"
            )
        name = given[0]
        ids = self._ids(inputs) if name == "input_ids" else self._encode(name, inputs)
        if not ids:
            raise InvalidRequestError(name, "must not be empty")
        self._check_length(name, len(ids))
        return ids

    def _ids(self, inputs: Inputs) -> list[int]:
        given = inputs["input_ids"]
        self._check_length("input_ids", given.size)
        ids: list[int] = given.reshape(-1).tolist()
        top = self._tokenizer.vocab_size - 1
        wrong = next((i for i in ids if not 0 <= i <= top), None)
        if wrong is not None:
            raise InvalidRequestError("input_ids", f"ids must be 0 to {top}, got {wrong}")
        return ids

    def _encode(self, name: str, inputs: Inputs) -> list[int]:
        most_bytes = self._settings.prompt_bytes
        if name == "messages":
            return self._tokenizer.encode_chat(read_messages(inputs, name, most_bytes))
        text = read_text(inputs, name, most_bytes)
        # Some tokenizers make a begin-of-sequence token of nothing, which is no prompt.
        return self._tokenizer.encode(text) if text else []

    def _continuation(self, inputs: Inputs, room: int) -> tuple[int, ...]:
        name = "continuation"
        if name not in inputs:
            return ()
        check_off(inputs, PLAIN, f"not with {name}")
        for other in _OF_A_FREE_ANSWER:
            if other in inputs:
                raise InvalidRequestError(other, f"not with {name}")
        text = read_text(inputs, name, self._settings.prompt_bytes)
        ids = self._tokenizer.encode_bare(text, name)
        if not 0 < len(ids) <= room:
            raise InvalidRequestError(name, f"must have 1 to {room} tokens, got {len(ids)}")
        return tuple(ids)

    def _check_length(self, name: str, tokens: int) -> None:
        limit = self._settings.max_context - 1
        if tokens > limit:
            raise InvalidRequestError(
                name, f"at most {limit} tokens fit in the context, got {tokens}"
            )

    def _echo(self, inputs: Inputs, prompt: list[int]) -> str:
        text = read_text(inputs, "text_input", self._settings.prompt_bytes)
        return text or self._tokenizer.decode(prompt)

    def _defaults_for(self, inputs: Inputs) -> AdapterDefaults:
        name = read_name(inputs, "lora_name") or self._settings.default_adapter
        return self._defaults(name) if name else AdapterDefaults()

    def _adapter(self, inputs: Inputs, mode: Mode) -> str:
        name = read_name(inputs, "lora_name")
        if name:
            check_served(self._settings, name)
        if mode is Mode.BASE:
            return ""
        name = name or self._settings.default_adapter
        if not name and self._settings.adapters_dir:
            raise InvalidRequestError("lora_name", "is needed, the server has no default adapter")
        if not name:
            raise InvalidRequestError("decoding", "must be base, the server has no adapter")
        return name

    def _spellings(self, word: str) -> list[tuple[int, ...]]:
        """A word's tokens at the start of a text and after a space."""
        spelled = (
            tuple(self._tokenizer.encode_bare(form, "bad_words")) for form in (word, " " + word)
        )
        return [ids for ids in dict.fromkeys(spelled) if ids]


def _decoding(inputs: Inputs, defaults: AdapterDefaults) -> str:
    decoding = read_name(inputs, "decoding") or defaults.decoding
    if decoding not in _MODES:
        raise InvalidRequestError(
            "decoding", f"must be one of {', '.join(_MODES)}, got {decoding!r}"
        )
    return decoding


def _sampling(inputs: Inputs, mode: Mode, defaults: AdapterDefaults) -> Sampling:
    return Sampling(
        mode=mode,
        alpha=read_number(inputs, "alpha", defaults.alpha, 0, 1, open_low=True),
        beta=read_number(inputs, "beta", defaults.beta, 0, STRONGEST),
        temperature=read_number(inputs, "temperature", 0, _WEAKEST, STRONGEST, or_zero=True),
        top_k=read_integer(inputs, "top_k", 0, 0, _INT32_MAX),
        top_p=read_number(inputs, "top_p", 1, 0, 1, open_low=True),
        min_p=read_number(inputs, "min_p", 0, 0, 1),
        repetition_penalty=read_number(inputs, "repetition_penalty", 1, _WEAKEST, STRONGEST),
        presence_penalty=read_number(inputs, "presence_penalty", 0, -2, 2),
        frequency_penalty=read_number(inputs, "frequency_penalty", 0, -2, 2),
        seed=int(inputs["seed"].item()) if "seed" in inputs else secrets.randbits(64),
    )


def _deadline(inputs: Inputs) -> float:
    if "deadline_s" not in inputs:
        return _INFINITY
    return read_number(inputs, "deadline_s", 0, 0, _INFINITY, open_low=True)
