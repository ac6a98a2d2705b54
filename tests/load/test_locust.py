"""Locust over the real server: every answer is of a kind that was to be expected."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Server

pytestmark = [pytest.mark.server, pytest.mark.parametrize("server", ["fused"], indirect=True)]
OPTIONS = ("--bad-input", "0.3", "--hang-up", "0.3", "--max-tokens", "12")


def locust(server: Server, *options: str) -> subprocess.CompletedProcess[str]:
    urls = ("--host", server.http, "--grpc-url", server.grpc)
    command = [Path(sys.executable).parent / "locust", "-f", ROOT / "load_tests/locustfile.py"]
    return subprocess.run(
        [*command, "--headless", *urls, *OPTIONS, *options],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_mixed_load_from_two_processes(server: Server, tmp_path: Path) -> None:
    done = locust(
        server,
        *("--processes", "2", "--shape", "steps", "--levels", "2,6", "--duration", "12s"),
        *("--fail-if", "error > 0", "--slo", "ttft_ms:60000", "--report", str(tmp_path)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "load.json").read_text())
    figures = found["figures"]
    kinds = {kind: figures[kind] for kind in ("ok", "bad_input", "hang_up", "refused", "error")}
    assert sum(kinds.values()) == figures["requests"] == sum(found["requests"].values())
    assert all(kinds[kind] for kind in ("ok", "bad_input", "hang_up")), kinds
    assert {name.split()[0] for name in found["requests"]} == {"grpc", "sse", "generate"}
    assert figures["ttft_ms.p50"] < figures["latency_ms.p99"]
    assert [level["users"] for level in found["levels"]] == [2, 6]
    assert (tmp_path / "load.png").stat().st_size > 10_000


def test_poisson_arrivals_and_a_threshold_that_is_crossed(server: Server) -> None:
    poisson = ("--arrivals", "poisson", "--levels", "3", "--duration", "6s")
    done = locust(server, *poisson, "--fail-if", "requests < 1000000")
    assert done.returncode == 1
    assert "FAILED: requests < 1e+06" in done.stdout
    assert "METRIC" in done.stderr
    assert " error 0" in done.stdout


def test_bad_options_are_refused(server: Server) -> None:
    done = locust(server, "--levels", "many")
    assert done.returncode == 1
    assert "levels: must be numbers" in done.stderr
