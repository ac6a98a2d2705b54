"""Locust users of a CoLD server; `run.py` starts them and a server, README.md explains.

Locust's own statistics show one event a request, named by protocol and kind, and TTFT and ITL as
events of type METRIC, in milliseconds.
"""

from __future__ import annotations

import logging
import random
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gevent
import grpc.experimental.gevent
import psutil
from gevent.pool import Group
from locust import LoadTestShape, User, constant, events, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import LocalRunner, MasterRunner, WorkerRunner

# Locust imports this file by its path.
sys.path.insert(0, str(Path(__file__).parent.parent))

from load_tests.caller import Caller
from load_tests.record import Record
from load_tests.report import Report
from load_tests.samples import Sample, Threshold, parse_slo
from load_tests.shapes import SHAPES, Shape, parse_duration_s
from load_tests.workload import Call, Mix, Workload

_BACK_OFF_S = 1.0  # before a user asks a server again that refused it or was not there
_record = Record()  # of this process, and on a master what workers have sent


@events.init_command_line_parser.add_listener
def _add_options(parser: Any) -> None:
    add = parser.add_argument_group("CoLD").add_argument
    add("--grpc-url", default="grpc://127.0.0.1:8001", help="--host has the HTTP URL")
    add("--shape", default="constant", choices=SHAPES)
    add("--levels", default="8", help="users, comma-separated for steps")
    add("--duration", default="1m", help="of the whole test")
    add("--requests", type=int, default=0, help="end after so many, if that is sooner")
    add(
        "--arrivals",
        default="closed",
        choices=("closed", "poisson"),
        help="closed: a user asks when answered; poisson: --user-rate times a second, regardless",
    )
    add("--user-rate", type=float, default=1.0, help="requests/s of a poisson user")
    add("--also-adapters", default="", help="of the server's folder, comma-separated names")
    add("--seed", type=int, default=1)
    add("--timeout-s", type=float, default=120.0, help="of a request")
    for name, default in asdict(Mix()).items():
        add(f"--{name.replace('_', '-')}", type=type(default), default=default, help="see Mix")
    add("--slo", action="append", default=[], help="ttft_ms:2000 or itl_ms:100; for goodput")
    add("--deadlines", action="store_true", help="requests carry a deadline_s: TTFT and all ITLs")
    add("--fail-if", action="append", default=[], help="'error_share > 0.01' for instance")
    add("--report", default="", metavar="DIR", help="where the JSON and the picture go")


@events.init.add_listener
def _prepare(environment: Environment, **_: Any) -> None:
    # After Locust has forked its workers.
    grpc.experimental.gevent.init_gevent()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every request otherwise
    options = environment.parsed_options
    if options is None:
        return
    try:
        _mix(options)
        _shape(options)
        for text in options.fail_if:
            Threshold.parse(text)
        slo = dict(map(parse_slo, options.slo))
        if options.deadlines and not {"ttft_ms", "itl_ms"} <= slo.keys():
            raise ValueError("deadlines: follow from --slo ttft_ms and itl_ms, both are needed")
        if options.requests and not isinstance(environment.runner, LocalRunner):
            raise ValueError("requests: are counted by one process only")
    except ValueError as error:
        # Locust would let those go on that have not reached this yet, and look for their master.
        for worker in psutil.Process().children():
            worker.kill()
        sys.exit(f"locust: {error}")


class ColdUser(User):
    """Makes the calls of a workload of its own."""

    wait_time = constant(0)
    numbers = iter(range(1 << 30))

    def on_start(self) -> None:
        options = self.environment.parsed_options
        self._options = options
        self._calls = Group()
        self._caller = Caller(options.grpc_url, options.host, options.timeout_s)
        # Workers are processes of their own, with users of the same numbers.
        runner = self.environment.runner
        worker = runner.worker_index if isinstance(runner, WorkerRunner) else 0
        seed = hash((options.seed, worker, next(self.numbers)))
        slo = dict(map(parse_slo, options.slo)) if options.deadlines else None
        further = filter(None, options.also_adapters.split(","))
        adapters = (*self._caller.adapters(), *further)
        self._workload = Workload(_mix(options), adapters, seed, slo)
        self._chance = random.Random(seed)

    def on_stop(self) -> None:
        self._calls.join(timeout=self._options.timeout_s)
        self._caller.close()

    @task
    def call(self) -> None:
        """One call; of a Poisson user, one that is not waited for."""
        if 0 < self._options.requests <= _record.sent:
            raise StopUser
        if self._options.arrivals == "closed":
            self._make(self._workload.next())
            return
        gevent.sleep(self._chance.expovariate(self._options.user_rate))
        self._calls.start(gevent.Greenlet(self._make, self._workload.next()))

    def _make(self, call: Call) -> None:
        _record.sent += 1
        sample = self._caller.make(call)
        _record.add(sample)
        self._fire(sample.protocol, sample.kind, sample.latency_ms, sample)
        for name, value in (("ttft_ms", sample.ttft_ms), ("itl_ms", sample.itl_ms)):
            if value is not None and sample.kind == "ok":
                self._fire("METRIC", name, value, sample)
        if sample.kind in ("error", "refused"):
            gevent.sleep(_BACK_OFF_S)

    def _fire(self, kind: str, name: str, value_ms: float, sample: Sample) -> None:
        failed = sample.kind == "error"
        self.environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=value_ms,
            response_length=sample.output_tokens,
            exception=RuntimeError(sample.message) if failed else None,
            context={},
        )


class Load(LoadTestShape):
    """What the options say."""

    def tick(self) -> tuple[int, float] | None:
        """See Locust."""
        if self.runner is None or self.runner.environment.parsed_options is None:
            return None
        options = self.runner.environment.parsed_options
        if 0 < options.requests <= len(_record.samples):
            return None
        users = _shape(options).users(self.get_run_time())
        if users is not None:
            return users, 1000.0
        # A master that ends takes workers' reports for half a second only, and what is still
        # running would be missing. So the users end first.
        return (0, 1000.0) if self.runner.user_count else None


@events.test_start.add_listener
def _begin(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    recorded = options and options.report and not isinstance(environment.runner, WorkerRunner)
    _record.begin(Path(options.report) / "requests.jsonl" if options and recorded else None)


@events.report_to_master.add_listener
def _send(data: dict[str, Any], **_: Any) -> None:
    data["sent"], data["samples"] = _record.take()


@events.worker_report.add_listener
def _receive(data: dict[str, Any], **_: Any) -> None:
    _record.sent += data.get("sent", 0)
    for sample in data.get("samples", ()):
        _record.add(Sample(**sample))


@events.quitting.add_listener
def _finish(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    if options is None or isinstance(environment.runner, WorkerRunner):
        return
    report = Report(
        sent=_record.sent,
        samples=_record.samples,
        begun_s=_record.begun_s,
        shape=_shape(options),
        slo=dict(map(parse_slo, options.slo)),
        settings=_shown(options, distributed=isinstance(environment.runner, MasterRunner)),
    )
    _record.close()
    print(report.text())
    if options.report:
        report.write(Path(options.report))
    crossed = [t for t in map(Threshold.parse, options.fail_if) if t.is_crossed(report.figures)]
    for threshold in crossed:
        print(f"FAILED: {threshold}")
    # Locust's own idea would be 1 after any event with an exception.
    environment.process_exit_code = 1 if crossed else 0


def _mix(options: Namespace) -> Mix:
    return Mix(**{name: getattr(options, name) for name in asdict(Mix())})


def _shape(options: Namespace) -> Shape:
    try:
        levels = tuple(int(level) for level in options.levels.split(","))
    except ValueError:
        raise ValueError(f"levels: must be numbers, got {options.levels!r}") from None
    return Shape(options.shape, levels, parse_duration_s(options.duration))


def _shown(options: Namespace, *, distributed: bool) -> dict[str, Any]:
    names = ("shape", "levels", "duration", "arrivals", "user_rate", "seed", "slo", "fail_if")
    shown = {name: getattr(options, name) for name in names}
    return shown | {"mix": asdict(_mix(options)), "distributed": distributed}
