"""The README's requests, sent to a real server: they answer as it shows."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator

import httpx
import pytest

from cold_client import cli
from tests.conftest import ROOT, Server

README = (ROOT / "README.md").read_text(encoding="utf-8")


def transcripts() -> Iterator[tuple[list[str], list[str]]]:
    """Commands as words, and the lines shown below them."""
    for block in re.findall(r"(?:^    .*\n)+", README, re.M):
        lines = [line.removeprefix("    ") for line in block.splitlines()]
        while lines:
            command = lines.pop(0)
            if not command.startswith("$ "):
                continue
            while not _is_whole(command):
                command += "\n" + lines.pop(0)
            shown = []
            while lines and not lines[0].startswith("$ "):
                shown.append(lines.pop(0))
            yield shlex.split(command.removeprefix("$ ")), shown


def _is_whole(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return True


def test_requests_over_http(server: Server) -> None:
    requests = [found for found in transcripts() if found[0][0] == "curl"]
    assert len(requests) == 2
    for (*_, url, _, body), shown in requests:
        path = url.partition("/v2/")[2]
        answer = httpx.post(f"{server.http}/v2/{path}", json=json.loads(body), timeout=60)
        assert answer.status_code == 200
        for line in filter(lambda line: line != "...", shown):
            assert line.removesuffix("...") in answer.text


def test_command_line(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [found for found in transcripts() if found[0][0].endswith("/cold")]
    assert [words[1] for words, _ in commands] == ["generate", "compare"]
    for (_, command, *arguments), shown in commands:
        assert cli.main([command, "--url", server.grpc, *arguments]) == 0
        printed = capsys.readouterr().out
        assert all(line in printed for line in shown)
        assert command != "compare" or "+ number0 number1" in printed
