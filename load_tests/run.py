"""Starts a server and has Locust load it; everything after `--` goes to Locust.

python load_tests/run.py --base-model DIR --adapter NAME=DIR -- --shape steps --levels 1,4,16
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cold_client import Client, ServerUnavailable


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [taken.getsockname()[1] for taken in sockets]


_HERE = Path(__file__).parent
_COMMANDS = Path(sys.executable).parent
GRPC, HTTP, METRICS = free_ports(3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-model", required=True, metavar="DIR")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("locust", nargs="*", help="arguments for Locust, after --")
    options = parser.parse_args()
    log = _HERE / "server.log"
    print(f"starting a server on port {HTTP}; its log is {log}", flush=True)
    with log.open("w") as file:
        command = server_command(options.base_model, options.adapter, options.dtype)
        server = subprocess.Popen(command, stderr=file)
        try:
            if not is_ready(server):
                print(f"the server ended before it was ready: see {log}", file=sys.stderr)
                return 1
            return subprocess.run(locust_command(*options.locust)).returncode
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()


def server_command(base_model: str, adapters: Sequence[str], dtype: str) -> list[str]:
    """How a server is started; adapters are NAME=DIR."""
    ports = ("--http-port", HTTP, "--grpc-port", GRPC, "--metrics-port", METRICS)
    named = (part for pair in adapters for part in ("--adapter", pair))
    command = [_COMMANDS / "cold-server", "--base-model", base_model, "--dtype", dtype]
    return [str(part) for part in (*command, *named, *ports)]


def locust_command(*arguments: str) -> list[str]:
    """How Locust is started."""
    urls = ("--host", f"http://127.0.0.1:{HTTP}", "--grpc-url", f"grpc://127.0.0.1:{GRPC}")
    command = [_COMMANDS / "locust", "-f", _HERE / "locustfile.py", "--headless", *urls]
    # Requests that run at the end are waited for: each is to be counted.
    command += ["--stop-timeout", "60"]
    return [str(part) for part in (*command, *arguments)]


def is_ready(server: subprocess.Popen[bytes]) -> bool:
    """Waits until the server is ready; false if it ended."""
    with Client(f"grpc://127.0.0.1:{GRPC}") as client:
        while server.poll() is None:
            with contextlib.suppress(ServerUnavailable):
                if client.health().ready:
                    return True
            time.sleep(0.3)
    return False


if __name__ == "__main__":
    sys.exit(main())
