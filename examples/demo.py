"""Starts a server, has it answer word problems with the base, greedily and by CoLD, and stops it.

python examples/demo.py --base-model DIR --adapter equations=examples/adapters/equations
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from equations.contest import DECODINGS, Contest, answer, measure_speed
from equations.data import load_splits, sample
from equations.showing import show_problems, show_score, show_speed
from rich.console import Console
from rich.progress import Progress

from cold_client import Client, ServerUnavailable
from cold_kernels.device import choose_device

ROOT = Path(__file__).parent.parent
DATA = ROOT / "examples" / "data" / "word_problems"
LOG = ROOT / "build" / "demo" / "server.log"
AT_ONCE = 8  # requests
LOG_LINES = 15  # shown if the server fails


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base-model", required=True)
    parser.add_argument("--adapter", required=True, metavar="NAME=DIR")
    parser.add_argument("--items", type=int, default=20, help="held-out problems; default: 20")
    parser.add_argument("--shown", type=int, default=6, help="of them in full; default: 6")
    parser.add_argument("--speed-tokens", type=int, default=96, help="per timing; default: 96")
    options = parser.parse_args()
    console = Console()
    dtype = fastest_dtype()
    console.print(f"Starting a server ({dtype}); what it says goes to {shown_path(LOG)}")
    with running_server(options.base_model, options.adapter, dtype) as url:
        if url is None:
            console.print(f"[red]the server did not start;[/] the end of its log:\n{log_end()}")
            return 1
        with Client(url) as client:
            contest = hold_contest(client, options.items)
            show_problems(console, contest, options.shown)
            show_score(console, contest)
            speeds = measure_speed(client, contest.problems[0], options.speed_tokens)
            show_speed(console, speeds, options.speed_tokens)
    console.print("Server stopped. `make serve` starts it again in the foreground.")
    return 0


def hold_contest(client: Client, items: int) -> Contest:
    """Has each held-out problem answered by every decoding."""
    contest = Contest(sample(load_splits(DATA).held_out, items))
    asked = [(decoding, problem) for problem in contest.problems for decoding in DECODINGS]
    with Progress(transient=True) as progress, ThreadPoolExecutor(AT_ONCE) as pool:
        task = progress.add_task(f"{items} problems, {len(DECODINGS)} decodings", total=len(asked))
        for (decoding, _), found in zip(
            asked, pool.map(lambda pair: answer(client, *pair), asked), strict=True
        ):
            contest.answers[decoding].append(found)
            progress.advance(task)
    return contest


@contextlib.contextmanager
def running_server(base_model: str, adapter: str, dtype: str) -> Iterator[str | None]:
    """The URL of a server that is ready, or None if it did not start; ends it afterwards."""
    http, grpc, metrics = free_ports(3)
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("wb") as log:
        server = subprocess.Popen(
            [
                *(Path(sys.executable).parent / "cold-server", "--base-model", base_model),
                *("--adapter", adapter, "--dtype", dtype, "--max-context", "1024"),
                *(
                    "--http-port",
                    str(http),
                    "--grpc-port",
                    str(grpc),
                    "--metrics-port",
                    str(metrics),
                ),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        url = f"grpc://127.0.0.1:{grpc}"
        yield url if is_ready(url, server) else None
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def is_ready(url: str, server: subprocess.Popen[bytes]) -> bool:
    """Waits until the server is ready; false if it ends instead."""
    with Client(url) as client:
        while True:
            try:
                if client.health().ready:
                    return True
            except ServerUnavailable:
                pass
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(0.5)
                return False


def fastest_dtype() -> str:
    """bfloat16 on a CPU that multiplies it; on an accelerator what the server takes by itself."""
    if choose_device("auto").type != "cpu":
        return "auto"
    with contextlib.suppress(OSError):
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
        if flags & {"amx_bf16", "avx512_bf16", "bf16"}:
            return "bfloat16"
    return "float32"


def log_end() -> str:
    lines = LOG.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-LOG_LINES:])


def shown_path(path: Path) -> Path:
    """A path from here, where it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


if __name__ == "__main__":
    sys.exit(main())
