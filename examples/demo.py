"""Starts a server, has one prompt decoded by the base, greedily and by CoLD, and stops it.

python examples/demo.py --base-model DIR --adapter equations=examples/adapters/equations
"""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
from pathlib import Path

from cold_client import Client, ServerUnavailable

PROMPT = (
    "Write this problem as an equation in prefix notation.\n"
    "There are number0 birds on a fence . number1 more birds and number2 storks come to join them ."
    " How many birds are there on the fence ?"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-model", required=True)
    parser.add_argument("--adapter", required=True, metavar="NAME=DIR")
    parser.add_argument("--prompt", default=PROMPT)
    options = parser.parse_args()
    http, grpc, metrics = free_ports(3)
    commands = Path(sys.executable).parent
    server = subprocess.Popen(
        [
            *(commands / "cold-server", "--base-model", options.base_model),
            *("--adapter", options.adapter, "--http-port", str(http)),
            *("--grpc-port", str(grpc), "--metrics-port", str(metrics)),
        ]
    )
    try:
        url = f"grpc://127.0.0.1:{grpc}"
        if not wait_until_ready(url, server):
            return 1
        print(f"\n{options.prompt}\n")
        compare = [commands / "cold", "compare", "--chat", "--url", url, "--max-tokens", "40"]
        code = subprocess.run([*compare, options.prompt]).returncode
    finally:
        server.send_signal(signal.SIGINT)
        stopped = server.wait()
    print(f"server stopped, exit code {stopped}")
    return code or stopped


def wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> bool:
    """Whether the server became ready; it says itself why it did not."""
    with Client(url) as client:
        while True:
            try:
                if client.health().ready:
                    return True
            except ServerUnavailable:
                pass
            try:
                server.wait(0.5)
                return False
            except subprocess.TimeoutExpired:
                continue


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


if __name__ == "__main__":
    sys.exit(main())
