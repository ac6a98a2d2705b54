"""Reads the fields of a request one by one: their sizes, ranges and characters."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from cold_backend.errors import InvalidRequestError
from cold_backend.protocol.inputs import INPUTS, MAX_BIASES, MAX_WORDS, STRONGEST_BIAS

Inputs = Mapping[str, npt.NDArray[Any]]

MAX_NAME_BYTES = 64
MAX_WORD_BYTES = 256  # text that may become a stop word is compared with all of them at every token
MAX_MESSAGES = 1024
_BIAS_BYTES = 32  # of one, as JSON
ESCAPED = 6  # bytes that JSON may take for one of text: \u0001
# What leaves the choice of tokens to their scores alone.
PLAIN = {one.name: one.default for one in INPUTS.values() if one.shapes}


def check_off(inputs: Inputs, off: Mapping[str, object], reason: str) -> None:
    """Refuses fields that mean nothing here, unless they have the value that has no effect."""
    for name, value in off.items():
        if name in inputs and inputs[name].item() != value:
            raise InvalidRequestError(name, reason)


def read_number(inputs: Inputs, name: str, default: float | None = None) -> float:
    """A number in the field's range; `default` stands in for the protocol's own."""
    if name not in inputs:
        return float(INPUTS[name].default if default is None else default)
    value = float(inputs[name].item())
    _check(name, value)
    return value


def read_integer(
    inputs: Inputs, name: str, default: int | None = None, *, high: float = math.inf
) -> int:
    """Likewise an integer, which `high` may bound more closely than the protocol does."""
    if name not in inputs:
        return int(INPUTS[name].default if default is None else default)
    value = int(inputs[name].item())
    _check(name, value, high)
    return value


def read_flag(inputs: Inputs, name: str) -> bool:
    """True or false."""
    return bool(inputs[name].item() if name in inputs else INPUTS[name].default)


def read_text(inputs: Inputs, name: str, most_bytes: int) -> str:
    """Text of at most that many bytes in UTF-8; empty where it is absent."""
    return _utf8(name, inputs[name].item(), most_bytes) if name in inputs else ""


def read_name(inputs: Inputs, name: str) -> str:
    """The name of something; empty where it is absent."""
    return read_text(inputs, name, MAX_NAME_BYTES)


def read_names(inputs: Inputs, name: str, most: int) -> tuple[str, ...]:
    """Names of things, one at least and none of them empty."""
    given = inputs[name].reshape(-1)
    if not 1 <= len(given) <= most:
        raise InvalidRequestError(name, f"must be 1 to {most} names, got {len(given)}")
    names = tuple(_utf8(name, one, MAX_NAME_BYTES) for one in given)
    if "" in names:
        raise InvalidRequestError(name, "a name must not be empty")
    return names


def read_numbers(inputs: Inputs, name: str, count: int) -> tuple[float, ...]:
    """So many numbers, each in the field's range."""
    given = inputs[name].reshape(-1)
    if len(given) != count:
        raise InvalidRequestError(name, f"must be {count} numbers, got {len(given)}")
    numbers = tuple(map(float, given))
    for number in numbers:
        _check(name, number)
    return numbers


def read_choice(inputs: Inputs, name: str, default: str = "") -> str:
    """One of the field's choices; `default` stands in for the protocol's own."""
    chosen = read_name(inputs, name) or default or str(INPUTS[name].default)
    _check(name, chosen)
    return chosen


def read_words(inputs: Inputs, name: str) -> tuple[str, ...]:
    """Words, none of them empty."""
    given = inputs[name].reshape(-1) if name in inputs else ()
    if len(given) > MAX_WORDS:
        raise InvalidRequestError(name, f"at most {MAX_WORDS} words, got {len(given)}")
    words = tuple(_utf8(name, word, MAX_WORD_BYTES) for word in given)
    if "" in words:
        raise InvalidRequestError(name, "a word must not be empty")
    return words


def read_biases(inputs: Inputs, name: str, vocab_size: int) -> tuple[tuple[int, float], ...]:
    """Tokens and what is added to their logits, from a JSON object as OpenAI's API has it."""
    text = read_text(inputs, name, MAX_BIASES * _BIAS_BYTES)
    if not text:
        return ()
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(name, f"must be JSON: {error}") from error
    if not isinstance(given, dict) or len(given) > MAX_BIASES:
        raise InvalidRequestError(name, f"must be {INPUTS[name].allowed_note}")
    return tuple((_token(name, key, vocab_size), _bias(name, x)) for key, x in given.items())


def parse_messages(name: str, chat: str, most_bytes: int) -> list[dict[str, str]]:
    """A chat from JSON, whose text may have so many bytes in UTF-8."""
    try:
        messages = json.loads(chat)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(name, f"must be JSON: {error}") from error
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise InvalidRequestError(
            name, 'must be a list of {"role": string, "content": string}, not empty'
        )
    if len(messages) > MAX_MESSAGES:
        raise InvalidRequestError(name, f"at most {MAX_MESSAGES} messages, got {len(messages)}")
    size = sum(len(part.encode()) for message in messages for part in message.values())
    if size > most_bytes:
        raise InvalidRequestError(name, f"at most {most_bytes} bytes of text, got {size}")
    return messages


def _check(name: str, value: object, high: float = math.inf) -> None:
    refusal = INPUTS[name].refusal(value, high)
    if refusal:
        raise InvalidRequestError(name, refusal)


def _token(name: str, text: str, vocab_size: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) < vocab_size):
        raise InvalidRequestError(
            name, f"token ids must be 0 to {vocab_size - 1}, got {text[:MAX_NAME_BYTES]!r}"
        )
    return int(text)


def _bias(name: str, value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and abs(value) <= STRONGEST_BIAS):  # type: ignore[arg-type]
        raise InvalidRequestError(
            name, f"a bias must be a number in [-{STRONGEST_BIAS}, {STRONGEST_BIAS}]"
        )
    return float(value)  # type: ignore[arg-type]


def _is_message(value: object) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"role", "content"}
        and all(isinstance(part, str) and _is_unicode(part) for part in value.values())
    )


def _is_unicode(text: str) -> bool:
    """Whether it has no half of a surrogate pair, which JSON can write and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _utf8(name: str, value: bytes | str, most_bytes: int) -> str:
    try:
        raw = value if isinstance(value, bytes) else value.encode()
        if len(raw) > most_bytes:
            raise InvalidRequestError(name, f"at most {most_bytes} bytes, got {len(raw)}")
        return raw.decode()
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise InvalidRequestError(name, f"must be UTF-8, byte {error.start} is not") from error
