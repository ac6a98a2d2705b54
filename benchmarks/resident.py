"""Arms that live in a process of their own: one JSON line per question, one per answer.

A process that waits does nothing, so all arms can be loaded while one is measured.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from benchmarks.measure import Generate, Generated

_MARK = "@@"  # before what is meant for the other side; libraries print too


class Resident:
    """A child process that answers questions; a context manager that ends it.

    Args:
        command: a program that calls `answer_questions`.
        environment: what to add to this process's.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.loaded: dict[str, Any] = self._read()

    def __enter__(self) -> Resident:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def arm(self, name: str) -> Generate:
        """One of the child's arms."""

        def generate(prompts: Sequence[list[int]], tokens: int) -> list[Generated]:
            question = {"arm": name, "prompts": list(prompts), "tokens": tokens}
            if self._process.stdin is None:
                raise RuntimeError("the arm has no input")
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            return [Generated(**answer) for answer in self._read()["answers"]]

        return generate

    def _read(self) -> dict[str, Any]:
        for line in self._process.stdout or ():
            _, mark, text = line.partition(_MARK)
            if mark:
                answer: dict[str, Any] = json.loads(text)
                return answer
        raise RuntimeError(f"an arm ended by itself: {self._process.args!r}")


def answer_questions(arms: Mapping[str, Generate], loaded: dict[str, Any] | None = None) -> None:
    """The child's side: says what was loaded, then answers until the parent ends.

    Args:
        arms: by name.
        loaded: what the parent wants to know about loading.
    """
    _say(loaded or {})
    for line in sys.stdin:
        question = json.loads(line)
        answers = arms[question["arm"]](question["prompts"], question["tokens"])
        _say({"answers": [dataclasses.asdict(answer) for answer in answers]})


def _say(value: dict[str, Any]) -> None:
    print(_MARK + json.dumps(value), flush=True)
