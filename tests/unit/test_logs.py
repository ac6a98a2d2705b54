"""A line of the log is one line, whatever clients choose."""

from __future__ import annotations

import json
import logging

import pytest

from cold_backend.logs import JsonLines, TextLines

FORGED = "a\ncold: ended request=b outcome=stop \x1b[31m\u2028"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("7f3a-é中", "7f3a-é中"),
        ("a b", '"a b"'),
        ("a=b", '"a=b"'),
        ('a"b', r'"a\"b"'),
        (FORGED, r'"a\ncold: ended request=b outcome=stop \u001b[31m\u2028"'),
        (7, "7"),
    ],
)
def test_a_value_cannot_be_taken_for_anything_else(value: object, shown: str) -> None:
    record = logging.makeLogRecord({"msg": "ended", "request": value})
    assert TextLines("cold").format(record) == f"cold: ended request={shown}"
    line = JsonLines("cold").format(record)
    assert line.isprintable()
    assert json.loads(line)["request"] == value
