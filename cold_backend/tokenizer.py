"""Text to token ids and back.

transformers is imported late: all processes of a server import this, one of them tokenises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from cold_backend.errors import ConfigError, InvalidRequestError


class Tokenizer:
    """A model directory's tokenizer.

    Args:
        path: model directory.
        vocab_size: width of the model's logits.

    Raises:
        ConfigError: the directory has no usable tokenizer.
    """

    def __init__(self, path: str, vocab_size: int) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
        except (ValueError, OSError) as error:
            raise ConfigError(f"base_model: {path} has no usable tokenizer: {error}") from error
        self.vocab_size = vocab_size
        self.eos_ids = _eos_ids(path, self._tokenizer.eos_token_id)

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, with the special tokens that the model starts with."""
        ids: list[int] = self._tokenizer(text, verbose=False)["input_ids"]
        return ids

    def encode_bare(self, text: str) -> list[int]:
        """Token ids of a piece of text, without special tokens."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def encode_chat(self, messages: list[dict[str, Any]]) -> list[int]:
        """Token ids of a chat, up to where the assistant's answer begins.

        Raises:
            InvalidRequestError: the tokenizer has no chat template or it refuses these messages.
        """
        if not self._tokenizer.chat_template:
            raise InvalidRequestError("messages", "this model has no chat template")
        try:
            ids: list[int] = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise InvalidRequestError(
                "messages", f"the chat template refuses them: {error}"
            ) from error
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; special tokens have none."""
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


def _eos_ids(path: str, tokenizer_eos: int | None) -> frozenset[int]:
    """Every id that ends a sequence, from the generation config and the tokenizer."""
    from transformers import GenerationConfig

    try:
        declared = GenerationConfig.from_pretrained(path, local_files_only=True).eos_token_id
    except OSError:  # the file is optional
        declared = None
    ids = declared if isinstance(declared, list) else [declared]
    return frozenset(i for i in (*ids, tokenizer_eos) if i is not None)
