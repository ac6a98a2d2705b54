"""What is told of faults, the forwarder that cuts connections, and a short run of it all."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from load_tests.aftermath import Aftermath, Event
from load_tests.forwarder import Forwarder
from load_tests.record import Record, read_samples
from load_tests.samples import Sample
from load_tests.server import Holdings
from tests.conftest import ROOT, free_ports

HELD = Holdings(memory_bytes=1000, shared_bytes=100, busy={})
KILLED = Event("SIGKILL cold", at_s=110, ready_s=10, spare=False, as_expected=True)


def sample(kind: str, start_s: float, end_s: float, message: str = "") -> Sample:
    return Sample(kind, "grpc", start_s, None, 1000 * (end_s - start_s), message=message)


SAMPLES = [
    sample("ok", 100, 101),
    sample("error", 109, 111.5, "cut off"),  # ran when it happened
    sample("error", 115, 115.5, "refused"),  # sent while there was no server
    sample("ok", 121, 123),
    sample("error", 140, 141, "AdapterNotFound: lora_name: no adapter 'spare'"),
]


def aftermath(samples: list[Sample] = SAMPLES, *, sent: int = 5, **other: object) -> Aftermath:
    given = Aftermath(sent, samples, [KILLED], HELD, HELD, [])
    return replace(given, **other)  # type: ignore[arg-type]


def failed(found: Aftermath) -> list[str]:
    return [check for check, held in found.checks.items() if not held]


def test_a_fault_and_its_errors(tmp_path: Path) -> None:
    found = aftermath()
    assert failed(found) == []
    (row,) = found.rows
    assert row["at_s"] == 10
    restored = Event("restored", at_s=135, ready_s=None, spare=True, as_expected=True)
    assert failed(aftermath(events=[KILLED, restored])) == ["errors come of faults alone"]
    assert (row["errors"], row["slowest_error_s"], row["answer_s"]) == (2, 1.5, 13)
    found.write(tmp_path, {"commit": "0"})
    assert json.loads((tmp_path / "faults.json").read_text())["requests"]["error"] == 3
    assert (tmp_path / "faults.png").stat().st_size > 10_000
    assert "SIGKILL cold" in found.text()


@pytest.mark.parametrize(
    ("found", "check"),
    [
        (aftermath(sent=6), "every request had one final answer"),
        (aftermath([*SAMPLES, sample("error", 130, 131)], sent=6), "errors come of faults alone"),
        (aftermath([*SAMPLES, sample("error", 109, 113)], sent=6), "they came within 2 s"),
        (aftermath(events=[replace(KILLED, ready_s=15.1)]), "ready again within 15 s"),
        (aftermath(events=[replace(KILLED, as_expected=False)]), "the right requests were served"),
        (aftermath(after=replace(HELD, busy={"x": 1.0})), "all slots and the KV cache free"),
        (aftermath(after=replace(HELD, memory_bytes=1021)), "memory within 2 % of the start"),
        (aftermath(after=replace(HELD, shared_bytes=103)), "/dev/shm within 2 % of the start"),
        (aftermath(left=["cold-server-1"]), "no process and no shared memory left"),
        (
            aftermath([*SAMPLES, sample("error", 111, 112, "Traceback (most")], sent=6),
            "no traceback in an answer",
        ),
    ],
)
def test_each_check_can_fail(found: Aftermath, check: str) -> None:
    assert failed(found) == [check]


def test_a_record_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new/requests.jsonl"
    assert read_samples(path) == []
    record = Record()
    record.begin(path)
    for one in SAMPLES:
        record.sent += 1
        record.add(one)
    record.close()
    assert read_samples(path) == record.samples == SAMPLES
    sent, taken = record.take()
    assert (sent, [Sample(**one) for one in taken]) == (5, SAMPLES)
    assert record.take() == (0, [])


@pytest.fixture
def echo() -> Iterator[tuple[Forwarder, int, socket.socket]]:
    """A forwarder, its port, and the server behind it."""
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        forwarder = Forwarder(port, server.getsockname()[1])
        yield forwarder, port, server
        forwarder.close()


def test_connections_are_passed_on_and_cut(echo: tuple[Forwarder, int, socket.socket]) -> None:
    forwarder, port, server = echo
    with socket.create_connection(("127.0.0.1", port)) as client:
        behind, _ = server.accept()
        with behind:
            client.sendall(b"there")
            assert behind.recv(100) == b"there"
            behind.sendall(b"back")
            assert client.recv(100) == b"back"
            assert forwarder.cut() == 1
            for end in (client, behind):
                with pytest.raises(ConnectionResetError):
                    end.recv(100)
    with socket.create_connection(("127.0.0.1", port)) as again:
        again.sendall(b"new")
        with server.accept()[0] as behind:
            assert behind.recv(100) == b"new"


QUICK = (
    *("connections cut", "too long prompts", "disk hangs", "disk errors"),
    *("stderr closed", "SIGKILL cold without stderr"),
)


@pytest.mark.server
def test_a_short_run(base_model: Path, adapter: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, ROOT / "load_tests/faults.py", "--execution", "fused"),
            *("--base-model", base_model, "--adapter", f"equations={adapter}"),
            *("--requests", "150", "--users", "6", "--report", tmp_path),
            *(part for fault in QUICK for part in ("--fault", fault)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (tmp_path / "faults.json").exists(), done.stdout + done.stderr
    found = json.loads((tmp_path / "faults.json").read_text())
    # How fast it is, and how much memory it takes, depends on what else runs.
    measured = ("within 2 %", "within 2 s", "within 15 s")
    checks = {k: v for k, v in found["checks"].items() if not any(m in k for m in measured)}
    assert all(checks.values()), (checks, found["unexplained"])
    assert found["requests"]["sent"] == 150
    assert [row["fault"] for row in found["faults"]] == [
        *QUICK[:-2],
        "connections cut",
        *QUICK[-2:],
    ]
