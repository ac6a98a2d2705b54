"""Items of a task: JSON Lines, one object with `id`, `prompt`, `answer` in each.

Training items have a `completion` besides, which is what the adapter learns to write after the
prompt. The others are what `cold-eval` reads.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, TypeVar

Item = dict[str, Any]
T = TypeVar("T")
SPLIT_SEED = 0


class DataError(Exception):
    """A data file is missing or not what it should be."""


def write(path: Path, items: Iterable[Item]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    path.write_text(text, encoding="utf-8")


def read(path: Path) -> list[Item]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    return [json.loads(line) for line in lines]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def shuffled(values: Iterable[T]) -> list[T]:
    """In an order that never changes."""
    result = list(values)
    random.Random(SPLIT_SEED).shuffle(result)
    return result


def split_by_group(pairs: Iterable[tuple[Hashable, T]], count: int) -> tuple[list[T], list[T]]:
    """At least `count` values and the rest; those of one group (twins) stay together."""
    groups: dict[Hashable, list[T]] = {}
    for group, value in pairs:
        groups.setdefault(group, []).append(value)
    first: list[T] = []
    rest: list[T] = []
    for members in shuffled(groups.values()):
        (first if len(first) < count else rest).extend(members)
    return first, rest
