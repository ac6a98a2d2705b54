"""Locust over the real server: every answer is of a kind that was to be expected."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from load_tests.samples import KINDS
from tests.conftest import ROOT, Server

pytestmark = [pytest.mark.server, pytest.mark.parametrize("server", ["fused"], indirect=True)]
MIX = ("--bad-input", "0.3", "--hang-up", "0.3", "--give-up", "0.2", "--max-tokens", "12")


def locust(server: Server, *options: str) -> subprocess.CompletedProcess[str]:
    urls = ("--host", server.http, "--grpc-url", server.grpc)
    stop = ("--stop-timeout", "60")
    program = Path(sys.executable).parent / "locust"
    file = ROOT / "load_tests/locustfile.py"
    return subprocess.run(
        [program, "-f", file, "--headless", *urls, *MIX, *stop, *options],
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
    kinds = {kind: figures[kind] for kind in KINDS}
    assert sum(kinds.values()) == figures["requests"] == sum(found["requests"].values())
    assert figures["sent"] == figures["requests"]
    assert all(kinds[kind] for kind in ("ok", "bad_input", "hang_up", "gave_up")), kinds
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


def test_a_load_of_so_many_requests_with_deadlines(server: Server, tmp_path: Path) -> None:
    limits = ("--slo", "ttft_ms:60000", "--slo", "itl_ms:1000", "--deadlines")
    done = locust(server, "--requests", "20", "--levels", "3", *limits, "--report", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "load.json").read_text())["figures"]
    assert figures["sent"] == figures["requests"] == 20
    assert len((tmp_path / "requests.jsonl").read_text().splitlines()) == 20
    assert not figures["error"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--levels", "many"), "levels: must be numbers"),
        (("--deadlines",), "deadlines: follow from --slo ttft_ms and itl_ms"),
        (("--requests", "5", "--processes", "8"), "requests: are counted by one process only"),
    ],
)
def test_bad_options_are_refused(server: Server, options: tuple[str, ...], message: str) -> None:
    done = locust(server, *options)
    assert done.returncode == 1
    assert message in done.stderr
