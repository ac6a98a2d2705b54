"""Word problems as the model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetuning.model import Example, example_of

from equations.data import Problem


def prompt(tokenizer: Any, problem: Problem) -> str:
    text: str = tokenizer.apply_chat_template(
        problem.messages, add_generation_prompt=True, tokenize=False
    )
    return text


def prompt_ids(tokenizer: Any, problem: Problem) -> list[int]:
    ids: list[int] = tokenizer(prompt(tokenizer, problem), add_special_tokens=False).input_ids
    return ids


def encode(tokenizer: Any, problems: Sequence[Problem]) -> list[Example]:
    return [
        example_of(tokenizer, prompt(tokenizer, problem), problem.equation) for problem in problems
    ]
