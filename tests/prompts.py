"""Twenty real prompts of 1 to 400 tokens."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from cold_backend.text.tokenizer import Tokenizer

_ROOT = Path(__file__).parent.parent
_LENGTHS = (1, 2, 5, 17, 64, 120, 200, 257, 320, 400)
_INSTRUCTION = "Write this problem as an equation in prefix notation.\n"


@dataclass(frozen=True)
class Prompt:
    """A prompt as it is sent, and as token ids."""

    ids: tuple[int, ...]
    messages: tuple[dict[str, str], ...] | None = None


def word_problems() -> list[tuple[str, str]]:
    """Problems of SVAMP as the example adapter is asked them, and their equations."""
    with (_ROOT / "examples/data/word_problems/dev.csv").open(newline="") as file:
        return [(_INSTRUCTION + row["Question"], row["Equation"]) for row in csv.DictReader(file)]


def real_prompts(tokenizer: Tokenizer) -> list[Prompt]:
    """Word problems of SVAMP as chats, and beginnings of a licence's text as token ids."""
    chats = []
    for problem, _ in word_problems()[:100:10]:
        messages = ({"role": "user", "content": problem},)
        chats.append(Prompt(tuple(tokenizer.encode_chat(list(messages))), messages))
    text = tokenizer.encode_bare(" ".join((_ROOT / "LICENSE").read_text().split()))
    return chats + [Prompt(tuple(text[at : at + n])) for at, n in enumerate(_LENGTHS)]
