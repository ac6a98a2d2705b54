"""Finds the load that a server carries, offers it once, twice and four times, and checks goodput.

python load_tests/overload.py --base-model DIR --adapter NAME=DIR
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Run as a program, not as a module.
sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.circumstances import circumstances
from load_tests.pictures import draw_overload
from load_tests.record import read_samples
from load_tests.run import HTTP, METRICS, locust_command, server_command
from load_tests.samples import KINDS
from load_tests.server import Server

_USERS = 4  # connections are cheap when there are few
_STEP = 1.5
_CARRIED = 0.85  # of what was sent within the limits, or the load was too much
_FACTORS = (1, 2, 4)
# The bars.
_KEPT = 0.9
_REFUSED_WITHIN_MS = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What came of so many requests a second.

    Attributes:
        factor: of the load that is carried; None while that is searched for.
        rate: requests/s, as they were sent.
        good: requests/s within the limits.
        sent: requests.
        kinds: how they ended.
        refused_ms: 95th percentile of the time that a refusal took; None without one.
        load_cpu_s, server_cpu_s: what both took of the machine's cores.
    """

    factor: int | None
    rate: float
    good: float
    sent: int
    kinds: dict[str, int]
    refused_ms: float | None
    load_cpu_s: float
    server_cpu_s: float


class OverloadRun:
    """Offers load after load to one server.

    Args:
        options: of the command line.
        server: one that is ready.
    """

    def __init__(self, options: argparse.Namespace, server: Server) -> None:
        self._options = options
        self._server = server

    def offers(self) -> Iterator[Offer]:
        """The search, then the load that is carried, times each factor."""
        carried, rate, exceeded = 0.0, self._options.first_rate, 0
        # Twice in a row: few requests, and what else runs, make a single one uncertain.
        while exceeded < 2:
            offer = self._offer(None, rate, self._options.search_s)
            yield offer
            carried = max(carried, offer.good)
            exceeded = exceeded + 1 if offer.good < _CARRIED * offer.rate else 0
            rate *= _STEP
        if not carried:
            raise SystemExit(
                "error: no request met the limits; a lower --first-rate may carry some"
            )
        for factor in _FACTORS:
            yield self._offer(factor, factor * carried, self._options.seconds)

    def _offer(self, factor: int | None, rate: float, seconds: float) -> Offer:
        name = f"{rate:.1f}" if factor is None else f"x{factor}"
        report = self._options.report / name
        slo = [part for limit in self._options.slo for part in ("--slo", limit)]
        command = locust_command(
            *("--arrivals", "poisson", "--levels", str(_USERS), "--user-rate", str(rate / _USERS)),
            *("--duration", f"{seconds}s", "--deadlines", *slo, "--report", str(report)),
            *("--generate", "0", "--bad-input", "0", "--hang-up", "0"),
            *("--max-tokens", str(self._options.max_tokens)),
        )
        before = _load_cpu_s(), self._server.cpu_s()
        with (self._options.report / f"{name}.log").open("w") as log:
            subprocess.run(command, stdout=log, stderr=log, check=True)
        found = json.loads((report / "load.json").read_text())["figures"]
        refused = [
            s.latency_ms for s in read_samples(report / "requests.jsonl") if s.kind == "refused"
        ]
        return Offer(
            factor=factor,
            rate=found["requests_per_s"],
            good=found["goodput_per_s"],
            sent=found["sent"],
            kinds={kind: found[kind] for kind in KINDS if found[kind]},
            refused_ms=float(np.percentile(refused, 95)) if refused else None,
            load_cpu_s=_load_cpu_s() - before[0],
            server_cpu_s=self._server.cpu_s() - before[1],
        )


def checks(offers: list[Offer]) -> dict[str, bool]:
    """What has to hold, and whether it does."""
    levels = [offer for offer in offers if offer.factor]
    peak = max(offer.good for offer in levels)
    refused = [offer.refused_ms or 0.0 for offer in levels]
    return {
        f"goodput at {_FACTORS[-1]} x is {_KEPT:.0%} of its peak": levels[-1].good >= _KEPT * peak,
        "every request had one final answer": all(o.sent == sum(o.kinds.values()) for o in offers),
        "none of them an error": not any("error" in o.kinds for o in offers),
        f"refused within {_REFUSED_WITHIN_MS:g} ms": max(refused) <= _REFUSED_WITHIN_MS,
    }


def _row(offer: Offer) -> str:
    name = "search" if offer.factor is None else f"{offer.factor} x"
    kinds = ", ".join(f"{count} {kind}" for kind, count in offer.kinds.items())
    refused = "-" if offer.refused_ms is None else f"{offer.refused_ms:.0f} ms"
    cpu = f"{offer.load_cpu_s:.0f} s / {offer.server_cpu_s:.0f} s"
    return f"{name:<8}{offer.rate:>9.1f}{offer.good:>9.2f}{refused:>12}{cpu:>15}   {kinds}"


def _load_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _measure(options: argparse.Namespace, show: Callable[[str], None]) -> list[Offer]:
    limits = ("--max-sequences", options.max_sequences, "--max-wait-s", options.max_wait_s)
    command = server_command(options.base_model, options.adapter, "bfloat16")
    options.report.mkdir(parents=True, exist_ok=True)
    log = options.report / "server.log"
    server = Server([*command, *map(str, limits)], http=HTTP, metrics=METRICS, log=log)
    try:
        server.await_ready()
        show(f"{'offered':<8}{'sent/s':>9}{'good/s':>9}{'refused in':>12}{'load/srv CPU':>15}")
        offers = []
        for offer in OverloadRun(options, server).offers():
            offers.append(offer)
            show(_row(offer))
        return offers
    finally:
        server.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-model", required=True, metavar="DIR")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument(
        "--max-sequences", type=int, default=4, help="of the server; as many as keep the limits"
    )
    parser.add_argument("--max-wait-s", type=float, default=1.0, help="of the server")
    parser.add_argument("--max-tokens", type=int, default=32, help="of an answer")
    parser.add_argument("--slo", action="append", help="default: ttft_ms:2000 and itl_ms:100")
    parser.add_argument("--first-rate", type=float, default=2.0, help="requests/s to begin with")
    parser.add_argument("--search-s", type=float, default=15.0, help="of each load of the search")
    parser.add_argument("--seconds", type=float, default=40.0, help="of each load after it")
    parser.add_argument("--report", type=Path, default=Path("build/overload"), metavar="DIR")
    options = parser.parse_args()
    options.slo = options.slo or ["ttft_ms:2000", "itl_ms:100"]
    offers = _measure(options, lambda line: print(line, flush=True))
    held = checks(offers)
    document: dict[str, Any] = {
        "circumstances": circumstances("load_tests/overload.py"),
        "slo": options.slo,
        "checks": held,
        "offers": [asdict(offer) for offer in offers],
    }
    (options.report / "overload.json").write_text(json.dumps(document, indent=1) + "\n")
    draw_overload(document["offers"], options.report / "overload.png")
    for check, value in held.items():
        print(f"{'ok' if value else 'FAILED':<8}{check}")
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
