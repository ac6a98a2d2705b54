"""Draws docs/pictures/dashboard.png: the dashboard after minutes of load on a real server.

Starts a server, a Prometheus (deploy/install-test-tools.sh) that scrapes it, and Locust:
`make dashboard-picture`.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from cold_backend.config import EXECUTIONS
from deploy.grafana.dashboard import Query, panels
from deploy.grafana.drawing import Series, draw
from deploy.prometheus.local import configure
from load_tests.run import METRICS, free_ports, is_ready, locust_command, server_command

OUT = Path(__file__).parents[2] / "docs/pictures/dashboard.png"
PROMETHEUS = f"127.0.0.1:{free_ports(1)[0]}"
SCRAPE_S = 5
# Few sequences at once and little patience, so that a small machine is overloaded for a while.
ROOM = ("--max-context", "512", "--max-sequences", "8")
PATIENCE = ("--max-wait-s", "4")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-model", required=True, metavar="DIR")
    parser.add_argument("--adapter", action="append", required=True, metavar="NAME=DIR")
    # Only an ensemble has something to show on every panel.
    parser.add_argument("--execution", choices=EXECUTIONS, default="ensemble")
    parser.add_argument("--duration", default="3m", help="of the load")
    parser.add_argument("--out", type=Path, default=OUT, metavar="PNG")
    options = parser.parse_args()
    load = ("--shape", "spike", "--levels", "5", "--duration", options.duration)
    if not shutil.which("prometheus"):
        parser.error("no program prometheus here; deploy/install-test-tools.sh installs it")
    command = [*server_command(options.base_model, options.adapter, "bfloat16"), *ROOM, *PATIENCE]
    command += ["--execution", options.execution]
    with TemporaryDirectory() as folder, stopped_after(command) as server:
        if not is_ready(server):
            return 1
        with stopped_after(prometheus_command(Path(folder))):
            begun_s = time.time()
            subprocess.run(locust_command(*load))
            time.sleep(2 * SCRAPE_S)
            drawn = [
                (panel, [one for query in panel.queries for one in ask(query, begun_s)])
                for panel in panels()
            ]
    draw("CoLD server", drawn, options.out)
    return 0


@contextlib.contextmanager
def stopped_after(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that gets Ctrl-C at the end."""
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def prometheus_command(directory: Path) -> list[str]:
    """How Prometheus is started."""
    target = f"127.0.0.1:{METRICS}"
    configuration = configure(directory / "etc", target=target, interval_s=SCRAPE_S)
    return [
        "prometheus",
        f"--config.file={configuration}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={PROMETHEUS}",
        "--log.level=warn",
    ]


def ask(query: Query, begun_s: float) -> list[Series]:
    """What a query gives from the beginning until now."""
    parameters: dict[str, Any] = {
        "query": query.promql(rate_s=4 * SCRAPE_S),
        "start": begun_s,
        "end": time.time(),
        "step": SCRAPE_S,
    }
    answer = httpx.get(f"http://{PROMETHEUS}/api/v1/query_range", params=parameters).json()
    found = []
    for result in answer["data"]["result"]:
        times, values = zip(*result["values"], strict=True)
        found.append(Series(query.label(result["metric"]), times, [float(v) for v in values]))
    return found


if __name__ == "__main__":
    sys.exit(main())
