"""What the smaller benchmarks have in common: options, and rounds that are told as they end."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")


def parser_of(document: str | None) -> argparse.ArgumentParser:
    """A parser with the options that each of them has; the first line of its text is the help."""
    parser = argparse.ArgumentParser(description=(document or "").splitlines()[0])
    add = parser.add_argument
    add("--base-model", type=Path, required=True, metavar="DIR")
    add("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    add("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    add("--rounds", type=int, default=3)
    return parser


def run_rounds(count: int, measure: Callable[[], Found]) -> list[Found]:
    """What is measured in each round; printed as JSON, so `Found` has to be that."""
    rounds: list[Found] = []
    for number in range(count):
        rounds.append(measure())
        print(f"round {number + 1}: {json.dumps(rounds[-1])}", flush=True)
    return rounds
