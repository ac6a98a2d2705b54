"""What the documents say: prose, code blocks, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = (
    *("benchmarks", "client", "cold_backend", "deploy", "docs", "evaluation", "examples"),
    *("install", "kernels", "load_tests", "model_repository", "study"),
)
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))]
)
MAKEFILE = (ROOT / "Makefile").read_text()
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
# What is quoted, or two blanks: a remark in a column of its own stands behind those.
_REMARK = re.compile(r"""("[^"]*"|'[^']*')|\s{2,}""")
_VARIABLE = re.compile(r"[A-Za-z_]+=.*")
_BETWEEN = {"|", "||", "&&", ";", "&"}


def split(text: str) -> tuple[str, list[str]]:
    """Prose, and the blocks of code, each its lines without the indentation that all have."""
    prose: list[str] = []
    blocks: list[list[str]] = []
    fenced = inside = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
            inside = fenced
            blocks += [[]] if fenced else []
            continue
        indented = line.startswith("    ")
        starts = indented and not inside and (not prose or not prose[-1].strip())
        if starts:
            blocks.append([])
        inside = fenced or (indented and (inside or starts)) or (inside and not line.strip())
        if inside:
            blocks[-1].append(line if fenced else line[4:])
        else:
            prose.append(line)
    return "\n".join(prose), ["\n".join(block) for block in blocks]


def spans(prose: str) -> list[str]:
    """Code within prose, each in one line."""
    return [" ".join(span.split()) for span in _SPAN.findall(prose)]


def commands(text: str) -> Iterator[list[str]]:
    """What code blocks and spans would run, word by word, without variables before it."""
    prose, blocks = split(text)
    lines = [line for block in blocks for line in _logical(block)]
    for line in [*lines, *spans(prose)]:
        yield from _parts(_words(line))


def recipes(makefile: str) -> Iterator[list[str]]:
    """The commands of the Makefile, its variables filled in."""
    variables = dict(re.findall(r"^(\w+) *[:?]?= *(.*)$", makefile, re.MULTILINE))
    for line in re.findall(r"^\t[@-]?(.*)$", makefile.replace("\\\n", " "), re.MULTILINE):
        filled = line
        while used := re.search(r"\$\((\w+)\)", filled):
            filled = filled.replace(used[0], variables.get(used[1], used[1]))
        yield from _parts(_words(filled))


def _logical(block: str) -> Iterator[str]:
    """Lines, those together that a backslash or a quote continues."""
    line = ""
    for part in block.splitlines():
        line += part.strip() if line and not line.endswith("\n") else part
        if line.endswith("\\"):
            line = line[:-1].rstrip() + " "
        elif _is_open(line):
            line += "\n"
        else:
            yield line
            line = ""


def _is_open(line: str) -> bool:
    try:
        shlex.split(line, comments=True)
    except ValueError:
        return True
    return False


def _words(line: str) -> list[str]:
    blanks = (found.start() for found in _REMARK.finditer(line.strip()) if not found[1])
    line = line.strip()[: next(blanks, None)]
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # a formula, a sentence with an apostrophe
        return []


def _parts(words: list[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for word in [*words, ";"]:
        if word not in _BETWEEN:
            part.append(word)
            continue
        while part and _VARIABLE.fullmatch(part[0]):
            part = part[1:]
        if part:
            yield part
        part = []
