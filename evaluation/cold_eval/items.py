"""Tasks: prompts with known answers, from JSONL files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cold_eval.errors import EvaluationError
from cold_eval.scorers import CHOICE_SCORERS, SCORERS

_KEYS = {"id", "prompt", "messages", "answer", "choices", "amateur"}

Asked = str | tuple[dict[str, str], ...]  # a text as it is, or the messages of a chat


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a task's file.

    Attributes:
        prompt: what is asked.
        answer: what is right; of a multiple choice, its place in `choices` as a string.
        choices: empty if it is no multiple choice.
        amateur: what an amateur of the item's own is asked; None if it has none.
        marked: the prompt with the marks that it was written with, where they were taken out.
    """

    id: str
    prompt: Asked
    answer: str
    choices: tuple[str, ...] = ()
    amateur: Asked | None = None
    marked: Asked | None = None

    @property
    def sha256(self) -> str:
        """Of what is asked and what is right, whatever the item is called."""
        asked = self.marked or self.prompt
        content = json.dumps([asked, self.answer, self.choices], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Task:
    """Items that are scored alike.

    Attributes:
        scorer: a name of SCORERS or CHOICE_SCORERS.
        max_tokens: of an answer.
        stop: texts that end an answer and are no part of it.
    """

    name: str
    items: tuple[Item, ...]
    scorer: str
    max_tokens: int = 256
    stop: tuple[str, ...] = ()

    @property
    def is_choice(self) -> bool:
        """Whether choices are scored, and nothing is generated."""
        return self.scorer in CHOICE_SCORERS

    def describe(self) -> dict[str, Any]:
        """What a result depends on, as JSON has it."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(f"{item.id}\0{item.sha256}\n".encode())
        return {
            "name": self.name,
            "items": len(self.items),
            "sha256": digest.hexdigest(),
            "scorer": self.scorer,
            "max_tokens": self.max_tokens,
            "stop": [*self.stop],
        }


def load_task(
    name: str,
    path: Path,
    scorer: str,
    *,
    max_tokens: int = 256,
    stop: tuple[str, ...] = (),
    limit: int | None = None,
) -> Task:
    """Reads a task.

    Args:
        limit: how many items are taken, from the first; None for all.

    Raises:
        EvaluationError: the file is missing or malformed, or there is no such scorer.
    """
    known = (*SCORERS, *CHOICE_SCORERS)
    if scorer not in known:
        raise EvaluationError(
            f"task {name}: scorer must be one of {', '.join(known)}, not {scorer!r}"
        )
    if max_tokens < 1:
        raise EvaluationError(f"task {name}: max_tokens must be at least 1, got {max_tokens}")
    items = load_items(path)[:limit]
    if scorer in CHOICE_SCORERS:
        without = next((item.id for item in items if not item.choices), None)
        if without is not None:
            raise EvaluationError(f"task {name}: item {without!r} has no choices to score")
    return Task(name, tuple(items), scorer, max_tokens, stop)


def load_items(path: Path) -> list[Item]:
    """Reads the items of a JSONL file.

    Raises:
        EvaluationError: the file is missing, or a line is malformed; names line and field.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path}: {error}") from error
    items: dict[str, Item] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = parse_item(json.loads(line))
        except ValueError as error:
            raise EvaluationError(f"{path}, line {number}: {error}") from error
        if item.id in items:
            raise EvaluationError(f"{path}, line {number}: id: {item.id!r} is there already")
        items[item.id] = item
    if not items:
        raise EvaluationError(f"{path}: has no items")
    return [*items.values()]


def parse_item(value: Any) -> Item:
    """An item from what JSON has.

    Raises:
        ValueError: a field is missing, unknown or malformed.
    """
    if not isinstance(value, dict):
        raise ValueError("must be an object")
    unknown = next((key for key in value if key not in _KEYS), None)
    if unknown is not None:
        raise ValueError(f"{unknown}: unknown field; known are {', '.join(sorted(_KEYS))}")
    for key in ("id", "answer"):
        if not isinstance(value.get(key), str):
            raise ValueError(f"{key}: must be a string")
    choices = _choices(value.get("choices", []))
    amateur = value.get("amateur")
    if isinstance(amateur, str):
        amateur = _text("amateur", amateur)
    elif amateur is not None:
        amateur = _messages("amateur", amateur)
    answer = _answer(value["answer"], choices)
    return Item(value["id"], _prompt(value), answer, choices, amateur)


def _prompt(value: dict[str, Any]) -> Asked:
    if ("prompt" in value) == ("messages" in value):
        raise ValueError("prompt: exactly one of prompt and messages is needed")
    if "prompt" in value:
        return _text("prompt", value["prompt"])
    return _messages("messages", value["messages"])


def _text(key: str, prompt: Any) -> str:
    if not (isinstance(prompt, str) and prompt):
        raise ValueError(f"{key}: must be a string, not empty")
    return prompt


def _messages(key: str, messages: Any) -> tuple[dict[str, str], ...]:
    good = isinstance(messages, list) and all(
        isinstance(m, dict)
        and set(m) == {"role", "content"}
        and all(isinstance(text, str) for text in m.values())
        for m in messages
    )
    if not good or not messages:
        raise ValueError(f'{key}: must be a list of {{"role": string, "content": string}}')
    return tuple(messages)


def _choices(value: Any) -> tuple[str, ...]:
    good = isinstance(value, list) and all(isinstance(c, str) and c for c in value)
    if not good or len(set(value)) != len(value) or len(value) == 1:
        raise ValueError("choices: must be two different strings or more")
    return tuple(value)


def _answer(answer: str, choices: tuple[str, ...]) -> str:
    if not choices:
        return answer
    if answer in choices:
        return str(choices.index(answer))
    if answer.isdecimal() and int(answer) < len(choices):
        return answer
    raise ValueError(f"answer: must be one of the choices or its index, got {answer!r}")
