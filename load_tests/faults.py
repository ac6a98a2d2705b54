"""Breaks a server in every way while Locust loads it, and checks what came of every request.

python load_tests/faults.py --base-model DIR --adapter NAME=DIR --requests 10000
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil

# Run as a program, not as a module.
sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.circumstances import circumstances
from load_tests.aftermath import Aftermath, Event
from load_tests.breakage import Breakage, Broken
from load_tests.disk import Disk
from load_tests.forwarder import Forwarder
from load_tests.record import read_samples
from load_tests.run import GRPC, HTTP, METRICS, free_ports, locust_command, server_command
from load_tests.server import Holdings, Server, can_mount

_HANGING_SERVER = Path(__file__).parent / "hanging_server.py"
(_FORWARDED,) = free_ports(1)
_WARM_UP = 500  # requests; what is held is compared after as many since a start
_PROGRESS_S = 10
_SPARE = "spare"
_HOLD_S = 5.0
_SHARED_BYTES = 256 << 20
_ACCEPT_TIMEOUT_S = 3
_MIX = (
    *("--max-tokens", 6, "--min-tokens", 1, "--max-problems", 1),
    *("--bad-input", 0.2, "--hang-up", 0.2, "--give-up", 0.2),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        act: makes it happen.
        restarts: whether the server has to be started anew because of it.
        spare: whether the spare adapter is served afterwards.
    """

    name: str
    act: Callable[[], object]
    restarts: bool = True
    spare: bool = True


class FaultRun:
    """One server, one load, one fault after the other.

    Args:
        options: of the command line.
        folder: that the server reads further adapters from; the spare one is in it.
        scratch: a folder for what the run itself needs.
    """

    def __init__(self, options: argparse.Namespace, folder: Path, scratch: Path) -> None:
        self._options = options
        self._original = Path(options.adapter.partition("=")[2])
        self._spare = folder / _SPARE
        self._restore()
        _, *arguments = server_command(options.base_model, [options.adapter], "bfloat16")
        arguments += ["--execution", options.execution, "--adapters-dir", str(folder)]
        arguments += ["--accept-timeout-s", str(_ACCEPT_TIMEOUT_S), "--max-context", "1024"]
        options.report.mkdir(parents=True, exist_ok=True)
        disk, self._hang = Disk(folder / "disk", scratch), scratch / "hang"
        self._can_mount = can_mount()
        self._server = Server(
            [sys.executable, str(_HANGING_SERVER), *arguments],
            http=HTTP,
            metrics=METRICS,
            log=options.report / "server.log",
            environment=disk.environment | {"COLD_HANG": str(self._hang)},
            shared_bytes=_SHARED_BYTES if self._can_mount else 0,
        )
        url = f"grpc://127.0.0.1:{GRPC}"
        self._breakage = Breakage(self._server, disk, self._original, folder, url, _HOLD_S)
        self._forwarder = Forwarder(_FORWARDED, GRPC)

    def run(self) -> Aftermath:
        """Warms up, loads, breaks, and looks at what is left."""
        try:
            self._say(f"ready after {self._server.await_ready():.1f} s; warming up")
            self._load("warm-up", min(_WARM_UP, self._options.requests)).wait()
            before = self._server.holdings()
            events = self._break(self._load("load", self._options.requests))
            after = self._server.holdings()
        finally:
            left = self._server.stop()
            self._forwarder.close()
        return self._aftermath(events, before, after, left)

    def _aftermath(
        self, events: list[Event], before: Holdings, after: Holdings, left: list[str]
    ) -> Aftermath:
        report = self._options.report / "load"
        document = json.loads((report / "load.json").read_text())
        samples = read_samples(report / "requests.jsonl")
        return Aftermath(document["figures"]["sent"], samples, events, before, after, left)

    def _break(self, load: subprocess.Popen[bytes]) -> list[Event]:
        """All faults, evenly spread over the requests; returns when the load has ended."""
        chosen = self._options.fault
        plan = [fault for fault in self._plan() if not chosen or fault.name in chosen]
        events = []
        for number, fault in enumerate(plan, 1):
            self._await(load, number * self._options.requests // (len(plan) + 2))
            events.append(self._inject(fault))
        self._await(load, self._options.requests)
        load.wait()
        return events

    def _plan(self) -> list[Fault]:
        models, around = ["cold"], self._breakage
        if self._options.execution == "ensemble":
            models = ["base_lm", "adapter_lm", "cold_decoder", "cold"]
        return [
            Fault("connections cut", self._forwarder.cut, restarts=False),
            *(self._signal(model, signal.SIGKILL) for model in models),
            self._signal(models[-1], signal.SIGSTOP),
            Fault("a request hangs", self._hang_one),
            Fault("too long prompts", around.oversized_prompts, restarts=False),
            *(
                Fault(f"disk {state}", partial(around.disk, state), restarts=False)
                for state in ("hangs", "slow", "errors")
            ),
            *self._full_shared_memory(),
            Fault("adapter damaged", self._damage, restarts=False, spare=False),
            Fault("adapter deleted", lambda: shutil.rmtree(self._spare), False, spare=False),
            self._signal("tritonserver", signal.SIGKILL, spare=False),
            Fault("adapter restored", self._restore, restarts=False),
            Fault("connections cut", self._forwarder.cut, restarts=False),
            Fault("stderr unread", around.unread_stderr, restarts=False),
            # The server's log ends here.
            Fault("stderr closed", around.closed_stderr, restarts=False),
            dataclasses.replace(
                self._signal("cold", signal.SIGKILL), name="SIGKILL cold without stderr"
            ),
        ]

    def _full_shared_memory(self) -> list[Fault]:
        if not self._can_mount:
            self._say("without a full /dev/shm: the server cannot have one of its own here")
            return []
        return [Fault("/dev/shm full", self._breakage.full_shared_memory, restarts=False)]

    def _hang_one(self) -> None:
        """Until the server is ended because of it."""
        old = self._server.find("tritonserver")
        self._hang.touch()
        while old and old.is_running() and old.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.1)
        self._hang.unlink()

    def _signal(self, name: str, number: signal.Signals, *, spare: bool = True) -> Fault:
        def act() -> None:
            process = self._server.find(name)
            if process is None:
                raise LookupError(f"no process {name}")
            process.send_signal(number)

        return Fault(f"{number.name} {name}", act, spare=spare)

    def _damage(self) -> None:
        (self._spare / "adapter_model.safetensors").write_bytes(b"broken")

    def _restore(self) -> None:
        shutil.copytree(self._original, self._spare, dirs_exist_ok=True)

    def _inject(self, fault: Fault) -> Event:
        old = self._server.find("tritonserver")
        at_s = time.time()
        held = True
        try:
            fault.act()
        except Broken as broken:
            self._say(f"{fault.name}: {broken}")
            held = False
        lasted_s = time.time() - at_s
        ready_s = self._server.await_ready(old) if fault.restarts else None
        held &= self._server.serves(_SPARE) == fault.spare
        self._say(fault.name + ("" if ready_s is None else f", ready again after {ready_s:.1f} s"))
        return Event(fault.name, at_s, ready_s, fault.spare, held, lasted_s)

    def _load(self, name: str, requests: int) -> subprocess.Popen[bytes]:
        report = self._options.report / name
        (report / "requests.jsonl").unlink(missing_ok=True)
        ends = ("--requests", requests, "--duration", "1h", "--levels", self._options.users)
        url = ("--grpc-url", f"grpc://127.0.0.1:{_FORWARDED}", "--also-adapters", _SPARE)
        with (self._options.report / f"{name}.log").open("w") as log:
            command = locust_command(*map(str, (*ends, *url, *_MIX, "--report", report)))
            return subprocess.Popen(command, stdout=log, stderr=log)

    def _await(self, load: subprocess.Popen[bytes], requests: int) -> None:
        """Waits until so many requests have ended; says every now and then how many."""
        shown_s = 0.0
        path = self._options.report / "load/requests.jsonl"
        while load.poll() is None:
            samples = read_samples(path)
            if len(samples) >= requests:
                return
            if time.monotonic() > shown_s + _PROGRESS_S:
                shown_s = time.monotonic()
                kinds = Counter(sample.kind for sample in samples)
                counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
                self._say(f"{len(samples)} of {self._options.requests} requests: {counts}")
            time.sleep(0.5)

    def _say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-model", required=True, metavar="DIR")
    parser.add_argument("--adapter", required=True, metavar="NAME=DIR", help="the default one")
    parser.add_argument("--execution", default="ensemble", choices=("ensemble", "fused"))
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=12)
    parser.add_argument("--fault", action="append", help="by name, as printed; default: all")
    parser.add_argument("--report", type=Path, default=Path("build/faults"), metavar="DIR")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as scratch:
        aftermath = FaultRun(options, Path(folder), Path(scratch)).run()
    aftermath.write(options.report, circumstances("load_tests/faults.py"))
    print(aftermath.text())
    return 0 if all(aftermath.checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
