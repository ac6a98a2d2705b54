"""The documents hold no placeholder, and their links and pictures lead somewhere."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.documents import DOCUMENTS, FOLDERS, ROOT, split

_CAPITALS = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
_UNFINISHED = re.compile(
    r"\b(?:TODO|TBD|FIXME|TKTK|XXX+|lorem ipsum)\b|\?\?\?|<<<|>>>", re.IGNORECASE
)
_TO_BE_FILLED = re.compile(r"\{\{.*?\}\}")
# Names that others have given, and who.
_FOREIGN = {
    "ASCEND_VISIBLE_DEVICES": "Ascend's container runtime",
    "OTEL_BSP_SCHEDULE_DELAY": "OpenTelemetry",
    "OTEL_RESOURCE_ATTRIBUTES": "OpenTelemetry",
    "OTEL_SERVICE_NAME": "OpenTelemetry",
    "PERMISSION_DENIED": "gRPC",
    "RST_STREAM": "HTTP/2",
}
_SOURCES = {"", ".ascend", ".cfg", ".cpp", ".h", ".py", ".sh", ".toml", ".tpl", ".yaml", ".yml"}
_TEMPLATE = ROOT / "study/page.md"  # `study.report` fills it in
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)(?:\s+\"[^\"]*\")?\)")
_HEADING = re.compile(r"^#{1,6} +(.+?)(?: +#+)?$", re.MULTILINE)

documents = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix()
)


@cache
def names_of_sources() -> set[str]:
    """Names in capitals that something other than a document or a test uses."""
    folders = (".ci", *FOLDERS)
    paths = [*ROOT.glob("*"), *(p for folder in folders for p in (ROOT / folder).rglob("*"))]
    found: set[str] = set()
    for path in paths:
        if path.is_file() and path.suffix in _SOURCES:
            found.update(_CAPITALS.findall(path.read_text()))
    return found


def placeholders(text: str, *, template: bool = False) -> list[str]:
    """What was to be filled in, or taken out, before anybody reads the text."""
    prose, _ = split(text)
    known = names_of_sources() | _FOREIGN.keys()
    found = [name for name in _CAPITALS.findall(text) if name not in known]
    found += _UNFINISHED.findall(prose)
    return found if template else found + _TO_BE_FILLED.findall(prose)


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    prose, _ = split(text)
    seen: Counter[str] = Counter()
    found = set()
    for heading in _HEADING.findall(prose):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def broken(document: Path, text: str) -> list[str]:
    """Links of a text that lead nowhere; those to other machines are not looked at."""
    prose, _ = split(text)
    found = []
    for link in _LINK.findall(re.sub(r"`[^`]*`", "", prose)):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (document.parent / path).resolve() if path else document
        inside = target.is_relative_to(ROOT) and target.exists()
        if not inside or (anchor and anchor not in anchors(_read(target, document, text))):
            found.append(link)
    return found


def _read(target: Path, document: Path, text: str) -> str:
    return text if target == document else target.read_text()


@documents
def test_nothing_was_left_to_be_filled_in(document: Path) -> None:
    assert placeholders(document.read_text(), template=document == _TEMPLATE) == []


@documents
def test_links_and_pictures_are_there(document: Path) -> None:
    place = ROOT / "docs/study.md" if document == _TEMPLATE else document
    assert broken(place, document.read_text()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("of the queue.\n\nOPERATIONS_RESULT\n\n## Adapters", ["OPERATIONS_RESULT"]),
        ("about BENCH_TABLE_2 ms, `SOME_FIGURE`", ["BENCH_TABLE_2", "SOME_FIGURE"]),
        ("    make bench RESULT_DIR=x\n", ["RESULT_DIR"]),
        ("todo: say how. TBD", ["todo", "TBD"]),
        ("XXX ms, ??? MB", ["XXX", "???"]),
        ("took {{seconds}} s", ["{{seconds}}"]),
        ("`HF_HUB_OFFLINE=1`, `OTEL_SERVICE_NAME`, a GPU, BLS", []),
    ],
)
def test_what_a_placeholder_is(text: str, expected: list[str]) -> None:
    assert placeholders(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[there](docs/operations.md#overload), [us](#a-heading-1)\n# A heading\n# A heading", []),
        (
            "[a](docs/none.md) ![b](docs/pictures/none.png)",
            ["docs/none.md", "docs/pictures/none.png"],
        ),
        ("[a](docs/operations.md#none) [b](#none)", ["docs/operations.md#none", "#none"]),
        ("[out](../elsewhere) [web](https://example.org/none) `[code](none)`", ["../elsewhere"]),
        ("# What `--host` says, and why\n[up](#what---host-says-and-why)", []),
    ],
)
def test_what_a_broken_link_is(text: str, expected: list[str]) -> None:
    assert broken(ROOT / "README.md", text) == expected
