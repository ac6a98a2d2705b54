"""Kills the server's processes in turn while Locust loads it, and checks what is left of it.

python load_tests/faults.py --base-model DIR --adapter NAME=DIR --duration 20m --report build/faults
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

# Run as a program, not as a module.
sys.path.insert(0, str(Path(__file__).parent.parent))

from load_tests.run import METRICS, is_ready, locust_command, server_command
from load_tests.shapes import parse_duration_s

_VICTIMS = ("base_lm", "adapter_lm", "cold_decoder", "cold", "tritonserver")
_SHARED_MEMORY = Path("/dev/shm")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-model", required=True, metavar="DIR")
    parser.add_argument("--adapter", required=True, metavar="NAME=DIR", help="the default one")
    parser.add_argument("--duration", default="20m", help="of the load")
    parser.add_argument("--users", type=int, default=12)
    parser.add_argument("--report", type=Path, default=Path("build/faults"), metavar="DIR")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spare = Path(folder) / "spare"
        shutil.copytree(options.adapter.partition("=")[2], spare)
        adapters = [options.adapter, f"spare={spare}"]
        command = [*server_command(options.base_model, adapters, "bfloat16")]
        server = subprocess.Popen([*command, "--execution", "ensemble"])
        try:
            checks = _run(options, server, spare) if is_ready(server) else {"started": False}
        finally:
            regions, processes = _regions(), psutil.Process(server.pid).children(recursive=True)
            server.send_signal(signal.SIGINT)
            server.wait()
    checks["no process left"] = not psutil.wait_procs(processes, timeout=5)[1]
    checks["no shared memory left"] = not regions & _regions()
    (options.report / "faults.json").write_text(json.dumps(checks, indent=1) + "\n")
    for check, value in checks.items():
        print(f"{check}: {value}")
    return 0 if all(value is not False for value in checks.values()) else 1


def _run(options: argparse.Namespace, server: subprocess.Popen[bytes], spare: Path) -> Any:
    """The load and the faults; what came of them, a failed check as False."""
    before = _shared_bytes()
    duration_s = parse_duration_s(options.duration)
    load = subprocess.Popen(
        [
            *locust_command("--levels", str(options.users), "--duration", options.duration),
            *("--bad-input", "0.1", "--hang-up", "0.2", "--report", str(options.report)),
        ]
    )
    faults = list(_faults(server, spare, duration_s / (len(_VICTIMS) + 2)))
    load.wait()
    document = json.loads((options.report / "load.json").read_text())
    figures = document["figures"]
    kinds = ("ok", "bad_input", "hang_up", "refused", "error")
    return {
        "requests": figures["requests"],
        **{kind: figures[kind] for kind in kinds},
        "every request has one answer": sum(figures[k] for k in kinds) == figures["requests"],
        "no traceback in an answer": "Traceback" not in json.dumps(document["messages"]),
        "seconds until ready after each fault": dict(faults),
        "all slots free": _is_idle(),
        "shared memory within 2 % of the start": _shared_bytes() <= 1.02 * before,
    }


def _faults(
    server: subprocess.Popen[bytes], spare: Path, pause_s: float
) -> Iterator[tuple[str, float]]:
    """Kills processes, one every `pause_s`; yields which, and when the server was ready again."""
    for victim in _VICTIMS:
        time.sleep(pause_s)
        if victim == "cold":
            # What the next start finds: an adapter that is broken.
            (spare / "adapter_model.safetensors").write_bytes(b"broken")
        if victim == "tritonserver":
            shutil.rmtree(spare)
        killed_s = time.monotonic()
        _find(server, victim).kill()
        time.sleep(1)
        is_ready(server)
        yield victim, round(time.monotonic() - killed_s, 1)


def _find(server: subprocess.Popen[bytes], name: str) -> psutil.Process:
    for process in psutil.Process(server.pid).children(recursive=True):
        if process.name() == name or f"/models/{name}/" in " ".join(process.cmdline()):
            return process
    raise LookupError(name)


def _is_idle() -> bool:
    give_up_s = time.monotonic() + 30
    while time.monotonic() < give_up_s:
        lines = httpx.get(f"http://127.0.0.1:{METRICS}/metrics").text.splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("cold_"))
        if values["cold_running_sequences"] == values["cold_waiting_sequences"] == "0":
            return values["cold_kv_used_ratio"] == "0"
        time.sleep(0.5)
    return False


def _regions() -> set[Path]:
    return set(_SHARED_MEMORY.glob("cold-server-*"))


def _shared_bytes() -> int:
    return sum(path.stat().st_size for path in _regions())


if __name__ == "__main__":
    sys.exit(main())
