"""Writes the table of the protocol where it is read: docs/protocol.md and cold's config.pbtxt.

python docs/write_protocol.py
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from cold_backend.protocol.inputs import INPUTS
from cold_backend.protocol.outputs import OUTPUTS
from cold_backend.protocol.tensors import Input, Output

_ROOT = Path(__file__).parent.parent
_DOCUMENT = _ROOT / "docs/protocol.md"
_CONFIG = _ROOT / "model_repository/cold/config.pbtxt"
_SOURCE = "from cold_backend/protocol, by `make protocol`"


def filled() -> dict[Path, str]:
    """Each of the files, and its text with the parts that follow from the table."""
    document, config = _DOCUMENT.read_text(), _CONFIG.read_text()
    document = _between(document, "<!-- inputs{} -->\n", input_table())
    document = _between(document, "<!-- outputs{} -->\n", output_table())
    config = _between(config, "# inputs and outputs{}\n", declarations())
    return {_DOCUMENT: document, _CONFIG: config}


def input_table() -> str:
    """The inputs in Markdown."""
    rows = [
        (f"`{one.name}`", _type(one), _default(one), _allowed(one), one.meaning)
        for one in INPUTS.values()
    ]
    return _table(("name", "type", "default", "allowed", "meaning"), rows)


def output_table() -> str:
    """The outputs in Markdown."""
    rows = [(f"`{one.name}`", _type(one), one.when, one.meaning) for one in OUTPUTS]
    return _table(("name", "type", "when", "meaning"), rows)


def declarations() -> str:
    """Inputs and outputs in protobuf's text format."""
    inputs = ",\n".join(f"  {{ {_declared(one)} optional: true }}" for one in INPUTS.values())
    outputs = ",\n".join(f"  {{ {_declared(one)} }}" for one in OUTPUTS)
    return f"input [\n{inputs}\n]\noutput [\n{outputs}\n]\n"


def _declared(one: Input | Output) -> str:
    size = -1 if one.many else 1
    return f'name: "{one.name}" data_type: TYPE_{one.type} dims: [ {size} ]'


def _type(one: Input | Output) -> str:
    return f"{one.type} [{'n' if one.many else 1}]"


def _default(one: Input) -> str:
    texts = [] if one.default in (None, math.inf) else [_plain(one.default)]
    return ", ".join([*texts, *filter(None, [one.default_note])])


def _allowed(one: Input) -> str:
    """What values may be; choices as code."""
    if one.choices:
        return ", ".join(f"`{choice}`" for choice in one.choices)
    if one.high_note:
        most = [_plain(one.high)] if one.high < math.inf else []
        return f"{_plain(one.low)} to {' and '.join([*most, one.high_note])}"
    return one.allowed()


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{value}`" if isinstance(value, str) else f"{value:g}"


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [_row(titles), "|" + "---|" * len([*titles]), *map(_row, rows)]
    return "\n" + "\n".join(lines) + "\n\n"


def _row(cells: Iterable[str]) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def _between(text: str, mark: str, part: str) -> str:
    """The text with another part between two marks."""
    start, end = mark.format(f" {_SOURCE}"), mark.format(" end")
    before, begun, rest = text.partition(start)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        raise ValueError(f"{start!r} and {end!r} are not there")
    return before + start + part + end + after


def main() -> None:
    """Writes the files."""
    for path, text in filled().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
