"""A line of the log is one line, whatever clients choose, and nothing waits for it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cold_backend.telemetry.lines import LineWriter
from cold_backend.telemetry.logs import JsonLines, TextLines

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


# Writes 2 MB of lines, and what came of it to a file.
MANY_LINES = """
import logging, sys, time
from cold_backend.telemetry.logs import dropped_lines, set_up_log
set_up_log("cold", "text")
begun_s = time.monotonic()
for number in range(5000):
    logging.getLogger("x").info("ended", extra={"request": "x" * 400})
with open(sys.argv[1], "w") as file:
    file.write(f"{dropped_lines()} {time.monotonic() - begun_s}")
"""
# Prints as much from another process, and what came of it to a file.
MANY_LINES_OF_ANOTHER = """
import subprocess, sys, time
from cold_backend.telemetry.logs import dropped_lines, hold_standard_files
from cold_backend.server.printed import Output
hold_standard_files()
printing = "for _ in range(5000): print('x' * 400)"
process = subprocess.Popen([sys.executable, "-c", printing], stdout=subprocess.PIPE, bufsize=0)
output = Output(process)
code = process.wait(60)
output.join()
with open(sys.argv[1], "w") as file:
    file.write(f"{dropped_lines()} {code}")
"""


def closed(command: list[str]) -> int:
    return subprocess.call(["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", *command], timeout=60)


def full_disk(command: list[str]) -> int:
    with open("/dev/full", "wb") as full:
        return subprocess.call(command, stderr=full, timeout=60)


def nobody_reads(command: list[str]) -> int:
    read, write = os.pipe()
    try:
        return subprocess.call(command, stderr=write, timeout=60)
    finally:
        os.close(read)
        os.close(write)


def nobody_can_read(command: list[str]) -> int:
    read, write = os.pipe()
    os.close(read)
    try:
        return subprocess.call(command, stderr=write, timeout=60)
    finally:
        os.close(write)


@pytest.mark.parametrize("program", [MANY_LINES, MANY_LINES_OF_ANOTHER], ids=["own", "another's"])
@pytest.mark.parametrize("run", [closed, full_disk, nobody_reads, nobody_can_read])
def test_a_log_that_goes_nowhere_stops_nothing(
    run: Callable[[list[str]], int], program: str, tmp_path: Path
) -> None:
    result = tmp_path / "result"
    assert run([sys.executable, "-c", program, str(result)]) == 0
    dropped, _ = result.read_text().split()
    assert run is closed or int(dropped) > 100  # how many depends on who is faster


def test_what_was_dropped_is_told_when_somebody_reads() -> None:
    read, write = os.pipe()
    writer = LineWriter(write)
    for number in range(5000):
        writer.put(b"%d " % number + b"x" * 1000)
    dropped = writer.dropped
    assert dropped > 1000
    numbers: list[int] = []
    told = 0
    with os.fdopen(read, "rb") as file:
        while len(numbers) + told < 5000:
            head, text = file.readline().split(maxsplit=1)
            if text == b"lines of the log were dropped\n":
                told += int(head)
            else:
                numbers.append(int(head))
        assert numbers == sorted(numbers)
        assert told == dropped
        writer.put(b"the next")
        assert file.readline() == b"the next\n"
    os.close(write)


def test_lines_are_whole_and_in_order() -> None:
    read, write = os.pipe()
    writer = LineWriter(write)
    for number in range(100):
        writer.put(b"%d" % number)
    writer.flush(20)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        assert file.read().split() == [b"%d" % number for number in range(100)]


def test_a_line_that_cannot_be_formatted_is_no_error(capfd: pytest.CaptureFixture[str]) -> None:
    program = """
import logging
from cold_backend.telemetry.logs import set_up_log
set_up_log("cold", "text")
logging.getLogger("x").info("%d %d", "a")
logging.getLogger("x").info("\\udc80 good")
"""
    assert subprocess.call([sys.executable, "-c", program], timeout=60) == 0
    told = capfd.readouterr().err.splitlines()
    assert told == ["a line of the log could not be written: '%d %d'", "cold: \\udc80 good"]
