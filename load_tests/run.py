"""Starts a server and has Locust load it; everything after `--` goes to Locust.

python load_tests/run.py --base-model DIR --adapter NAME=DIR -- --shape steps --levels 1,4,16
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

from cold_client import Client, ServerUnavailable

_HERE = Path(__file__).parent
_COMMANDS = Path(sys.executable).parent
_GRPC, _HTTP, _METRICS = 8101, 8100, 8102


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-model", required=True, metavar="DIR")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("locust", nargs="*", help="arguments for Locust, after --")
    options = parser.parse_args()
    ports = ("--http-port", _HTTP, "--grpc-port", _GRPC, "--metrics-port", _METRICS)
    adapters = (part for pair in options.adapter for part in ("--adapter", pair))
    model = ("--base-model", options.base_model, "--dtype", options.dtype)
    command = [_COMMANDS / "cold-server", *model, *adapters, *ports]
    log = _HERE / "server.log"
    print(f"starting a server; its log is {log}", flush=True)
    with log.open("w") as file:
        server = subprocess.Popen([str(part) for part in command], stderr=file)
        try:
            return _load(options.locust) if _is_ready(server) else 1
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()


def _load(arguments: list[str]) -> int:
    urls = ["--host", f"http://127.0.0.1:{_HTTP}", "--grpc-url", f"grpc://127.0.0.1:{_GRPC}"]
    command = [_COMMANDS / "locust", "-f", _HERE / "locustfile.py", "--headless", *urls]
    return subprocess.run([*command, *arguments]).returncode


def _is_ready(server: subprocess.Popen[bytes]) -> bool:
    with Client(f"grpc://127.0.0.1:{_GRPC}") as client:
        while server.poll() is None:
            with contextlib.suppress(ServerUnavailable):
                if client.health().ready:
                    return True
            time.sleep(0.3)
    return False


if __name__ == "__main__":
    sys.exit(main())
