"""Text to token ids and back.

transformers is imported late: all processes of a server import this, one of them tokenises.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from cold_backend.errors import ConfigError, InvalidRequestError
from cold_backend.refusal import refusing
from cold_backend.text.chat_template import ChatTemplate
from cold_backend.text.detokenizer import Detokenizer
from cold_backend.text.end_of_sequence import end_tokens

_log = logging.getLogger(__name__)


class Tokenizer:
    """A model directory's tokenizer.

    It may know more tokens than the model; a text that has one of those is refused.

    Args:
        path: model directory.
        vocab_size: width of the model's logits.

    Raises:
        ConfigError: the directory has no usable tokenizer.
    """

    def __init__(self, path: str, vocab_size: int) -> None:
        self._tokenizer = _load(path)
        self.vocab_size = vocab_size
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        self.eos_ids = end_tokens(path, self._tokenizer.eos_token_id, vocab_size)
        self._silent = self._silent_ids(vocabulary)
        self._byte_values = self._bytes_by_id(vocabulary)
        self._template: ChatTemplate | None = None
        self._no_chat = self._take_template()
        if self._no_chat:
            _log.warning("base_model: messages will be refused: %s", self._no_chat)
        beyond = [token for token, i in vocabulary.items() if i >= vocab_size]
        if beyond:
            _log.warning(
                "base_model: the tokenizer has tokens that the model has not, %d of them: %s; "
                "requests with one are refused",
                len(beyond),
                ", ".join(map(repr, beyond[:8])),
            )

    def encode(self, text: str, field: str = "text_input") -> list[int]:
        """Token ids of a prompt, with the special tokens that the model starts with.

        Raises:
            InvalidRequestError: the text cannot be had as tokens of the model; names the field.
        """
        return self._encode(field, text, add_special_tokens=True)

    def encode_bare(self, text: str, field: str = "text_input") -> list[int]:
        """Token ids of a piece of text, without special tokens; raises as `encode` does."""
        return self._encode(field, text, add_special_tokens=False)

    def encode_chat(self, messages: list[dict[str, Any]], field: str = "messages") -> list[int]:
        """Token ids of a chat, up to where the assistant's answer begins.

        Raises:
            InvalidRequestError: the tokenizer has no chat template, or it refuses these messages or
                fails on them, or they cannot be had as tokens of the model; names the field.
        """
        if self._template is None:
            raise InvalidRequestError(field, self._no_chat)
        try:
            text = self._template.render(messages)
        except Exception as error:  # a template may raise anything
            raise InvalidRequestError(
                field, f"the chat template refuses them: {_shown(error)}"
            ) from error
        return self._encode(field, text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; special tokens have none."""
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def detokenizer(self, prompt: Sequence[int]) -> Detokenizer:
        """Decodes the tokens that follow a prompt, as they come."""
        return Detokenizer(self.decode, prompt, silent=self._silent, byte_values=self._byte_values)

    def _encode(self, field: str, text: str, *, add_special_tokens: bool) -> list[int]:
        try:
            ids: list[int] = self._tokenizer(
                text, add_special_tokens=add_special_tokens, verbose=False
            )["input_ids"]
        except Exception as error:  # tokenizers raises no other class
            raise InvalidRequestError(
                field, f"the tokenizer cannot take it: {_shown(error)}"
            ) from error
        top = self.vocab_size - 1
        if ids and max(ids) > top:
            wrong = next(i for i in ids if i > top)
            name = self._tokenizer.convert_ids_to_tokens(wrong)
            raise InvalidRequestError(
                field, f"has {name!r}, token {wrong}; the model's tokens are 0 to {top}"
            )
        return ids

    def _silent_ids(self, vocabulary: dict[str, int]) -> frozenset[int]:
        """Ids of special tokens, and those that the tokenizer does not know."""
        added = self._tokenizer.added_tokens_decoder.items()
        special = {i for i, token in added if token.special and not self.decode([i])}
        return frozenset(special | set(range(self.vocab_size)).difference(vocabulary.values()))

    def _bytes_by_id(self, vocabulary: dict[str, int]) -> dict[int, int]:
        """The bytes that tokens such as `<0x0A>` stand for, if they stand for bytes here."""
        named = {value: vocabulary.get(f"<0x{value:02X}>") for value in range(256)}
        found = {i: value for value, i in named.items() if i is not None}
        shown = next(((i, value) for i, value in found.items() if value < 128), None)
        return found if shown and self.decode([shown[0]]) == chr(shown[1]) else {}

    def _take_template(self) -> str:
        """Compiles the chat template; says why there is none."""
        if not self._tokenizer.chat_template:
            return "this model has no chat template"
        try:
            source = self._tokenizer.get_chat_template()
            if not isinstance(source, str):
                raise TypeError(f"must be text, got {type(source).__name__}")
            self._template = ChatTemplate(source, self._tokenizer.special_tokens_map)
        except Exception as error:  # compiling may raise anything too
            return f"this model's chat template is broken: {_shown(error)}"
        return ""


def _load(path: str) -> Any:
    from transformers import AutoTokenizer

    problem = f"base_model: {path} has no usable tokenizer"
    with refusing(problem):
        tokenizer: Any = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        plain = set(tokenizer.get_vocab()).difference(tokenizer.get_added_vocab())
    if len(plain) < 2:  # transformers makes one of nothing where a file is missing
        raise ConfigError(f"{problem}: its vocabulary is missing")
    return tokenizer


def _shown(error: Exception) -> str:
    """An error in a line; what a template raises on purpose speaks for itself."""
    text = next(iter(str(error).strip().splitlines()), "")[:200]
    return text if type(error) is TemplateError else f"{type(error).__name__}: {text}"
