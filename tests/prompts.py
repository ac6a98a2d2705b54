"""Twenty real prompts of 1 to 400 tokens."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from cold_backend.tokenizer import Tokenizer

_LENGTHS = (1, 2, 5, 17, 64, 120, 200, 257, 320, 400)
_INSTRUCTION = "Write this problem as an equation in prefix notation.\n"


@dataclass(frozen=True)
class Prompt:
    """A prompt as it is sent, and as token ids."""

    ids: tuple[int, ...]
    messages: tuple[dict[str, str], ...] | None = None


def real_prompts(tokenizer: Tokenizer, root: Path) -> list[Prompt]:
    """Word problems of SVAMP as chats, and beginnings of a licence's text as token ids."""
    with (root / "examples/data/word_problems/dev.csv").open(newline="") as file:
        problems = [row["Question"] for row in csv.DictReader(file)][:100:10]
    chats = []
    for problem in problems:
        messages = ({"role": "user", "content": _INSTRUCTION + problem},)
        chats.append(Prompt(tuple(tokenizer.encode_chat(list(messages))), messages))
    text = tokenizer.encode_bare(" ".join((root / "LICENSE").read_text().split()))
    return chats + [Prompt(tuple(text[at : at + n])) for at, n in enumerate(_LENGTHS)]
