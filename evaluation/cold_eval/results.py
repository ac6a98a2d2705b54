"""Scored answers, and the file that keeps them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cold_eval.errors import EvaluationError

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One answer to one item, by every decoding that gives it.

    Attributes:
        decodings: steps at which each had a choice, by name; -1 where that is not known.
        answer: the part of the text that counts, None if there is none.
        score: 0 to 1.
        finish: why it ended: `stop`, `length`; of multiple choice empty.
        pieces: text of each token.
        expert: log-probability of each token; empty where it is not known, like the next two.
        base: likewise.
        changed: which tokens the expert alone would not have chosen.
        votes: for each answer how many samples gave it.
        choices: log-probability of each choice.
    """

    task: str
    item: str
    decodings: dict[str, int]
    text: str = ""
    answer: str | None
    score: float
    finish: str = ""
    pieces: list[str] = field(default_factory=list)
    expert: list[float] = field(default_factory=list)
    base: list[float] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    votes: dict[str, int] = field(default_factory=dict)
    choices: list[float] = field(default_factory=list)

    @property
    def keys(self) -> list[tuple[str, str, str]]:
        """(task, item, decoding) of each decoding."""
        return [(self.task, self.item, name) for name in self.decodings]


class Journal:
    """An append-only JSONL file: a line of settings, then a line for every result.

    A run that was interrupted goes on where it stopped; a last line that was cut off is dropped.

    Args:
        path: is made if it is not there.
        settings: what the results depend on, as JSON has it.

    Raises:
        EvaluationError: the file belongs to other settings, or is no such file.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.results: list[Result] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = self._read(path, settings) if path.exists() else 0
            self._file = path.open("ab")
            self._file.truncate(kept)
            if not kept:
                self._write({"cold_eval": FORMAT, "settings": settings})
        except OSError as error:
            raise EvaluationError(f"{path}: {error.strerror}") from error
        self.done = {key for result in self.results for key in result.keys}

    def add(self, result: Result) -> None:
        """Keeps a result; it is on the disk when this returns."""
        self._write({k: v for k, v in asdict(result).items() if v not in ([], {}, "")})
        self.results.append(result)
        self.done.update(result.keys)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _read(self, path: Path, settings: dict[str, Any]) -> int:
        """Reads what is there; returns how many bytes are whole lines."""
        *lines, rest = path.read_bytes().split(b"\n")
        if not lines:
            if rest and not b'{"cold_eval"'.startswith(rest[:12]):
                raise EvaluationError(f"{path}: is no file of results")
            return 0
        header, self.results = parse_results(path, lines)
        check_same(path, header, settings)
        return sum(len(line) + 1 for line in lines)

    def _write(self, value: Any) -> None:
        self._file.write(json.dumps(value).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def read_results(path: Path) -> tuple[dict[str, Any], list[Result]]:
    """The settings and the results of a file.

    Raises:
        EvaluationError: it cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise EvaluationError(f"{path}: {error.strerror}") from error
    return parse_results(path, lines)


def parse_results(path: Path, lines: Sequence[bytes]) -> tuple[dict[str, Any], list[Result]]:
    """The settings and the results in the whole lines of a file.

    Raises:
        EvaluationError: they are not what this package writes.
    """
    try:
        header, *values = map(json.loads, lines)
        if header["cold_eval"] != FORMAT:
            raise EvaluationError(f"{path}: was written by another version")
        return header["settings"], [Result(**value) for value in values]
    except (ValueError, TypeError, KeyError) as error:
        raise EvaluationError(f"{path}: is no file of results: {error}") from error


def check_same(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Checks that results may be added to a file.

    Raises:
        EvaluationError: the settings differ; names them.
    """
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if differing:
        raise EvaluationError(
            f"{path}: holds results of other settings ({', '.join(differing)} differ); "
            "take another folder, or the same settings to go on"
        )


def missing(
    results: Iterable[tuple[str, str, str]], task: str, items: Sequence[str], names: Sequence[str]
) -> dict[str, list[str]]:
    """For each item the decodings that have no result yet."""
    done = set(results)
    wanted = {item: [name for name in names if (task, item, name) not in done] for item in items}
    return {item: names for item, names in wanted.items() if names}
