"""The programs of this repository, and what the Makefile and the documents name of them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.documents import DOCUMENTS, FOLDERS, MAKEFILE, ROOT, commands, recipes

_GUARD = re.compile(r'^if __name__ == "__main__":', re.MULTILINE)


def console() -> dict[str, str]:
    """Commands that packages install, and the file of each."""
    found = {}
    for path in ("pyproject.toml", "client/pyproject.toml", "evaluation/pyproject.toml"):
        scripts = tomllib.loads((ROOT / path).read_text())["project"]["scripts"]
        for name, target in scripts.items():
            file = Path(path).parent / f"{target.partition(':')[0].replace('.', '/')}.py"
            found[name] = file.as_posix()
    return found


def programs() -> set[str]:
    """All that can be run: commands by name, other files by their path."""
    files = {
        path.relative_to(ROOT).as_posix()
        for folder in (*FOLDERS, "tests")
        for path in (ROOT / folder).rglob("*.py")
        if _GUARD.search(path.read_text()) or path.name == "__main__.py"
    }
    # `python -m cold_client.gateway.cli` is `cold-openai`.
    return (files - set(console().values())) | set(console())


def named() -> set[str]:
    """Programs that a recipe or a document runs, whether they exist or not."""
    lines = [*recipes(MAKEFILE)]
    for document in DOCUMENTS:
        lines += commands(document.read_text())
    return {program for words in lines for program in run_by(words)}


def run_by(words: Sequence[str]) -> Iterator[str]:
    """Programs of this repository that a command line runs."""
    for place, word in enumerate(words):
        name = Path(word).name
        if name in console() and (place == 0 or "/bin/" in word):
            yield name
        if name.startswith("python") and (program := _first(words[place + 1 :])):
            yield program


def _first(words: Sequence[str]) -> str | None:
    """What an interpreter with these arguments runs; None if it is not of this repository."""
    if words[:1] == ["-m"] and len(words) > 1:
        path = words[1].replace(".", "/")
        return next((p for p in (f"{path}.py", f"{path}/__main__.py") if (ROOT / p).exists()), None)
    if words and words[0].endswith(".py") and not words[0].startswith("/"):
        return words[0]
    return None
