"""Parts of a prompt that an adapter's rule keeps from the amateur: see `AmateurRule.without`.

The system messages of a chat; or what stands between <context> and </context> in a text or in any
message, the passage to answer from. The expert reads a context without its marks.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

from cold_backend.errors import InvalidRequestError
from cold_backend.requests.fields import parse_messages
from cold_backend.requests.prompt import Prompt

_MARKS = re.compile(r"</?context>")


def unmarked(prompt: Prompt, part: str | None) -> Prompt:
    """What the expert reads of a prompt, if the amateur does not read a part of it.

    Raises:
        InvalidRequestError: a mark has no counterpart, or nothing is left.
    """
    return _replaced(prompt, leave=True) if part == "context" else prompt


def without(prompt: Prompt, part: str) -> Prompt:
    """What the amateur reads; what the expert does if there is no such part.

    Raises:
        InvalidRequestError: as of `unmarked`.
    """
    if part == "context":
        return _replaced(prompt, leave=False)
    if not prompt.chat:
        return prompt
    others = [message for message in _messages(prompt) if message["role"] != "system"]
    return _chat(prompt, others) if others else prompt


def _replaced(prompt: Prompt, *, leave: bool) -> Prompt:
    """The prompt with or without its contexts. A message that was nothing else is left out."""
    if prompt.text:
        text = _text(prompt.field, prompt.text, leave=leave)
        if not text:
            raise InvalidRequestError(prompt.field, "must not be empty beside its context")
        return replace(prompt, text=text)
    if not prompt.chat:
        return prompt
    messages = _messages(prompt)
    contents = [_text(prompt.field, message["content"], leave=leave) for message in messages]
    kept = [
        {**message, "content": content}
        for message, content in zip(messages, contents, strict=True)
        if content or not message["content"]
    ]
    if not kept:
        raise InvalidRequestError(prompt.field, "must not be empty beside its context")
    return _chat(prompt, kept)


def _text(field: str, text: str, *, leave: bool) -> str:
    pieces, begin, inside = [], 0, False
    for mark in _MARKS.finditer(text):
        opens = mark[0] == "<context>"
        if opens is inside:
            missing = "</context>" if opens else "<context>"
            raise InvalidRequestError(field, f"a {mark[0]} has no {missing}")
        if leave or not inside:
            pieces.append(text[begin : mark.start()])
        begin, inside = mark.end(), opens
    if inside:
        raise InvalidRequestError(field, "a <context> has no </context>")
    return "".join([*pieces, text[begin:]])


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    return parse_messages(prompt.field, prompt.chat, prompt.most_bytes)


def _chat(prompt: Prompt, messages: list[dict[str, str]]) -> Prompt:
    return replace(prompt, chat=json.dumps(messages))
