"""A request's prompt: read from its field, and turned into tokens later."""

from __future__ import annotations

from dataclasses import dataclass

from cold_backend.config import Settings
from cold_backend.errors import InvalidRequestError
from cold_backend.requests.fields import ESCAPED, Inputs, parse_messages, read_text
from cold_backend.text.tokenizer import Tokenizer

PROMPTS = ("text_input", "messages", "input_ids")

# A prompt of more characters than these for each token that fits is first tokenised up to there.
# Most text has fewer, so that one which is far too long is known by a part of it.
_CHARACTERS_PER_TOKEN = 6
# By how much fewer tokens the whole may have than the part: a cut through a word makes some more.
_CUT_TOKENS = 64
_AT_ONCE_BYTES = 16384  # larger chats are parsed where they are tokenised


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a request gives as its prompt, in one of three ways.

    Attributes:
        field: name of the input.
        text: of `text_input`; empty with the others.
        chat: of `messages`, as JSON; empty with the others.
        ids: of `input_ids`; empty with the others.
        most_bytes: that the text of a chat may have.
    """

    field: str
    text: str = ""
    chat: str = ""
    ids: tuple[int, ...] = ()
    most_bytes: int = 0

    @property
    def text_bytes(self) -> int:
        """How much there is to be tokenised, about; 0 if there is nothing."""
        return len(self.text) + len(self.chat)

    def tokens(self, tokenizer: Tokenizer, limit: int) -> tuple[int, ...]:
        """The tokens of the prompt.

        Raises:
            InvalidRequestError: there are none, or more than `limit`.
        """
        ids = self.ids or self._tokenised(tokenizer, limit)
        if not ids:
            raise InvalidRequestError(self.field, "must not be empty")
        check_length(self.field, len(ids), limit)
        return ids

    def _tokenised(self, tokenizer: Tokenizer, limit: int) -> tuple[int, ...]:
        if self.chat:
            messages = parse_messages(self.field, self.chat, self.most_bytes)
            return tuple(tokenizer.encode_chat(messages, self.field))
        part = self.text[: _CHARACTERS_PER_TOKEN * (limit + _CUT_TOKENS)]
        if len(part) < len(self.text):
            found = len(tokenizer.encode(part, self.field))
            if found > limit + _CUT_TOKENS:
                check_length(self.field, found, limit, "more than ")
        return tuple(tokenizer.encode(self.text, self.field))


def read_prompt(inputs: Inputs, settings: Settings, vocabulary: int) -> Prompt:
    """Reads the one prompt that a request must have.

    Raises:
        InvalidRequestError: it has none or several; it is empty, malformed or too large.
    """
    given = [name for name in PROMPTS if name in inputs]
    if len(given) != 1:
        came = " and ".join(given) or "none"
        raise InvalidRequestError(
            "text_input", f"exactly one of {', '.join(PROMPTS)} is needed, got {came}"
        )
    return read_prompt_field(inputs, given[0], settings, vocabulary)


def read_prompt_field(inputs: Inputs, name: str, settings: Settings, vocabulary: int) -> Prompt:
    """Reads a prompt from one of the fields that may hold it.

    Raises:
        InvalidRequestError: it is empty, malformed or too large.
    """
    if name.endswith("input_ids"):
        return Prompt(field=name, ids=_read_ids(inputs, name, settings.max_context - 1, vocabulary))
    most_bytes = settings.prompt_bytes
    if name.endswith("messages"):
        chat = read_text(inputs, name, ESCAPED * most_bytes)
        if len(chat) <= _AT_ONCE_BYTES:
            parse_messages(name, chat, most_bytes)
        return Prompt(field=name, chat=chat, most_bytes=most_bytes)
    text = read_text(inputs, name, most_bytes)
    if not text:
        # Some tokenizers make a begin-of-sequence token of nothing, which is no prompt.
        raise InvalidRequestError(name, "must not be empty")
    return Prompt(field=name, text=text)


def check_length(field: str, tokens: int, limit: int, about: str = "") -> None:
    """Refuses a prompt of more than `limit` tokens."""
    if tokens > limit:
        raise InvalidRequestError(
            field, f"at most {limit} tokens fit in the context, got {about}{tokens}"
        )


def _read_ids(inputs: Inputs, name: str, limit: int, vocabulary: int) -> tuple[int, ...]:
    given = inputs[name]
    if not given.size:
        raise InvalidRequestError(name, "must not be empty")
    check_length(name, given.size, limit)
    ids: list[int] = given.reshape(-1).tolist()
    wrong = next((i for i in ids if not 0 <= i < vocabulary), None)
    if wrong is not None:
        raise InvalidRequestError(name, f"ids must be 0 to {vocabulary - 1}, got {wrong}")
    return tuple(ids)
