"""Checks and measures the product on an accelerator.

python -m benchmarks.device --out benchmarks/results/device_CARD.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

from benchmarks.circumstances import circumstances
from benchmarks.device import capture, engine, kernels, launches, logits, parity, steps
from benchmarks.device.bench import FULL, QUICK, Bench, driver

# In the order of their worth, and the seconds that each may take.
PARTS: dict[str, tuple[float, Callable[[Bench, bool], Any]]] = {
    "parity": (130, lambda bench, quick: parity.run(bench, 125, quick=quick)),
    "steps": (110, lambda bench, _: steps.run(bench)),
    "launches": (40, lambda bench, _: launches.run(bench)),
    "kernels": (60, lambda bench, _: kernels.run(bench)),
    "logits": (60, lambda bench, quick: logits.run(bench, quick=quick)),
    "engine": (70, lambda bench, quick: engine.run(bench, quick=quick)),
    "capture": (20, lambda bench, _: capture.run(bench)),
}
_LINES = 30  # of a traceback


class TooLongError(Exception):
    """A part took longer than it may."""


def main() -> int:
    options = parse_arguments()
    bench = Bench(options.device, QUICK if options.quick else FULL)
    result = {**_where(bench, options.commit), "parts": {}}
    failed = 0
    for name in options.parts:
        seconds, run = PARTS[name]
        print(f"== {name}", flush=True)
        begun = time.monotonic()
        try:
            with at_most(seconds):
                found = run(bench, options.quick)
        except Exception:
            failed += 1
            found = {"failed": traceback.format_exc().splitlines()[-_LINES:]}
            print("\n".join(found["failed"]), flush=True)
        result["parts"][name] = {"seconds": round(time.monotonic() - begun, 1), "found": found}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Ends the block with TooLongError if it takes longer."""

    def end(_: int, __: FrameType | None) -> None:
        raise TooLongError(f"longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _where(bench: Bench, commit: str | None) -> dict[str, Any]:
    details = circumstances("benchmarks/device")
    kept = ("cpu", "cores", "commit", "uncommitted_changes", "python", "versions")
    found = {name: details[name] for name in kept}
    if commit:
        found |= {"commit": commit, "uncommitted_changes": None}
    if not bench.is_cpu:
        found["card"] = torch.get_device_module(bench.device).get_device_name(bench.device)
        found["driver"] = driver()
    return {
        **found,
        "cuda": torch.version.cuda,
        "machine": platform.machine(),
        "ops": bench.ops.name,
    }


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FILE", help="for the results, as JSON")
    add("--device", default="auto", choices=("auto", "cpu", "cuda", "npu"))
    add("--parts", nargs="+", default=[*PARTS], choices=[*PARTS], metavar="PART")
    add("--commit", help="of the code, where it is no git repository")
    add("--quick", action="store_true", help="tiny shapes, to see that it runs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
