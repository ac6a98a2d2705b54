"""What a client asks for: read from the inputs of `cold` and checked. See docs/protocol.md."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cold_backend.adapter_catalogue import check_served
from cold_backend.config import Settings
from cold_backend.errors import InvalidRequestError
from cold_backend.tokenizer import Tokenizer
from cold_kernels import Mode

Inputs = Mapping[str, npt.NDArray[Any]]

DEFAULT_MAX_TOKENS = 256
MAX_WORDS = 64  # stop words and bad words, each
_MODES = {"cold": Mode.COLD, "greedy": Mode.EXPERT, "base": Mode.BASE}
_PROMPTS = ("text_input", "messages", "input_ids")
_INT32_MAX = 2**31 - 1
_INFINITY = float("inf")


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
        bad_words: token sequences that must not come up.
        echo: text to put before the output.
        priority: 0 is served first, 2 last.
        deadline_s: seconds from acceptance to the end of the answer; may be infinite.
    """

    prompt: tuple[int, ...]
    adapter: str
    sampling: Sampling
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
    """

    def __init__(self, settings: Settings, tokenizer: Tokenizer) -> None:
        self._settings = settings
        self._tokenizer = tokenizer

    def parse(self, inputs: Inputs) -> GenerationRequest:
        """Reads and checks one request.

        Args:
            inputs: arrays by input name, of the data types that config.pbtxt declares.

        Raises:
            InvalidRequestError: a field is missing, malformed or out of range.
            UnknownAdapterError: no adapter of that name is served.
        """
        sampling = _sampling(inputs)
        prompt = self._prompt(inputs)
        room = self._settings.max_context - len(prompt)
        default = min(DEFAULT_MAX_TOKENS, room)
        max_tokens = _integer(inputs, "max_tokens", default, 1, room)
        bad_words = _words(inputs, "bad_words")
        return_contrast = _flag(inputs, "return_contrast", False)
        if return_contrast and sampling.mode is Mode.BASE:
            raise InvalidRequestError("return_contrast", "not available with decoding base")
        excluded = _flag(inputs, "exclude_input_in_output", True)
        return GenerationRequest(
            prompt=tuple(prompt),
            adapter=self._adapter(inputs, sampling.mode),
            sampling=sampling,
            max_tokens=max_tokens,
            min_tokens=_integer(inputs, "min_tokens", 0, 0, max_tokens),
            stop_words=_words(inputs, "stop_words"),
            bad_words=tuple(ids for word in bad_words for ids in self._spellings(word)),
            ignore_eos=_flag(inputs, "ignore_eos", False),
            stream=_flag(inputs, "stream", False),
            echo="" if excluded else self._echo(inputs, prompt),
            priority=_integer(inputs, "priority", 1, 0, 2),
            deadline_s=_deadline(inputs),
            return_log_probs=_flag(inputs, "return_log_probs", False),
            return_finish_reason=_flag(inputs, "return_finish_reason", False),
            return_num_input_tokens=_flag(inputs, "return_num_input_tokens", False),
            return_num_output_tokens=_flag(inputs, "return_num_output_tokens", False),
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
        ids = self._encode(name, inputs)
        if not ids:
            raise InvalidRequestError(name, "must not be empty")
        limit = self._settings.max_context - 1
        if len(ids) > limit:
            raise InvalidRequestError(
                name, f"at most {limit} tokens fit in the context, got {len(ids)}"
            )
        return ids

    def _encode(self, name: str, inputs: Inputs) -> list[int]:
        if name == "input_ids":
            ids: list[int] = inputs[name].reshape(-1).tolist()
            top = self._tokenizer.vocab_size - 1
            wrong = next((i for i in ids if not 0 <= i <= top), None)
            if wrong is not None:
                raise InvalidRequestError(name, f"ids must be 0 to {top}, got {wrong}")
            return ids
        text = _text(inputs, name, "")
        if name == "messages":
            return self._tokenizer.encode_chat(_messages(text))
        # Some tokenizers make a begin-of-sequence token of nothing, which is no prompt.
        return self._tokenizer.encode(text) if text else []

    def _echo(self, inputs: Inputs, prompt: list[int]) -> str:
        return _text(inputs, "text_input", "") or self._tokenizer.decode(prompt)

    def _adapter(self, inputs: Inputs, mode: Mode) -> str:
        name = _text(inputs, "lora_name", "")
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
        spelled = (tuple(self._tokenizer.encode_bare(form)) for form in (word, " " + word))
        return [ids for ids in dict.fromkeys(spelled) if ids]


def _sampling(inputs: Inputs) -> Sampling:
    decoding = _text(inputs, "decoding", "cold") or "cold"
    if decoding not in _MODES:
        raise InvalidRequestError(
            "decoding", f"must be one of {', '.join(_MODES)}, got {decoding[:64]!r}"
        )
    return Sampling(
        mode=_MODES[decoding],
        alpha=_number(inputs, "alpha", 0.1, 0, 1, open_low=True),
        beta=_number(inputs, "beta", 0.5, 0, _INFINITY),
        temperature=_number(inputs, "temperature", 0, 0, _INFINITY),
        top_k=_integer(inputs, "top_k", 0, 0, _INT32_MAX),
        top_p=_number(inputs, "top_p", 1, 0, 1, open_low=True),
        min_p=_number(inputs, "min_p", 0, 0, 1),
        repetition_penalty=_number(inputs, "repetition_penalty", 1, 0, _INFINITY, open_low=True),
        presence_penalty=_number(inputs, "presence_penalty", 0, -2, 2),
        frequency_penalty=_number(inputs, "frequency_penalty", 0, -2, 2),
        seed=int(inputs["seed"].item()) if "seed" in inputs else secrets.randbits(64),
    )


def _deadline(inputs: Inputs) -> float:
    if "deadline_s" not in inputs:
        return _INFINITY
    return _number(inputs, "deadline_s", 0, 0, _INFINITY, open_low=True)


def _number(
    inputs: Inputs,
    name: str,
    default: float,
    low: float,
    high: float,
    *,
    open_low: bool = False,
) -> float:
    """A finite number between low and high; `open_low` leaves low itself out."""
    value = float(inputs[name].item()) if name in inputs else default
    above = value > low if open_low else value >= low
    if not (above and value <= high and np.isfinite(value)):
        if high == _INFINITY:
            allowed = f"a finite number {'above' if open_low else 'of at least'} {low:g}"
        else:
            allowed = f"in {'(' if open_low else '['}{low:g}, {high:g}]"
        raise InvalidRequestError(name, f"must be {allowed}, got {value:g}")
    return value


def _integer(inputs: Inputs, name: str, default: int, low: int, high: int) -> int:
    value = int(inputs[name].item()) if name in inputs else default
    if not low <= value <= high:
        raise InvalidRequestError(name, f"must be between {low} and {high}, got {value}")
    return value


def _flag(inputs: Inputs, name: str, default: bool) -> bool:
    return bool(inputs[name].item()) if name in inputs else default


def _text(inputs: Inputs, name: str, default: str) -> str:
    return _utf8(name, inputs[name].item()) if name in inputs else default


def _words(inputs: Inputs, name: str) -> tuple[str, ...]:
    words = tuple(_utf8(name, word) for word in inputs[name].reshape(-1)) if name in inputs else ()
    if len(words) > MAX_WORDS:
        raise InvalidRequestError(name, f"at most {MAX_WORDS} words, got {len(words)}")
    if "" in words:
        raise InvalidRequestError(name, "a word must not be empty")
    return words


def _utf8(name: str, value: bytes | str) -> str:
    if isinstance(value, str):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(name, f"must be UTF-8, byte {error.start} is not") from error


def _messages(text: str) -> list[dict[str, Any]]:
    try:
        messages = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError("messages", f"must be JSON: {error}") from error
    good = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in messages
    )
    if not good or not messages:
        raise InvalidRequestError(
            "messages", 'must be a list of {"role": string, "content": string}, not empty'
        )
    return messages
