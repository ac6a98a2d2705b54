"""Times the kernels beside what they replace, in one run; writes JSON and a picture."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch

# Run as a program, not as a module.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.circumstances import circumstances
from benchmarks.kernels.arms import Arm, Case, contrast, lora
from cold_kernels import load_ops
from cold_kernels.device import choose_device

_WARM_UP_S = 0.3
_MEASURE_S = 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="small shapes, to see that it runs")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    ops = load_ops("auto", device)
    vocabs, hiddens = ([1024], [64]) if arguments.quick else ([49152, 151936], [576, 1536, 4096])
    rows_of = ([2], [8]) if arguments.quick else ([1, 8, 32], [8, 32])
    with torch.inference_mode():
        rows = [
            _measure(case, device, arguments.rounds)
            for case in (
                *(contrast(ops, r, v, device) for v in vocabs for r in rows_of[0]),
                *(lora(ops, r, h, 8, 16, device) for h in hiddens for r in rows_of[1]),
            )
        ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    where = {**circumstances("kernels/bench_kernels.py"), "threads": arguments.threads}
    result = {**where, "device": str(device), "ops": ops.name, "rows": rows}
    (arguments.out / f"kernels_{device.type}.json").write_text(json.dumps(result, indent=1))
    _draw(rows, f"{ops.name} on {where['cpu']}", arguments.out / f"kernels_{device.type}.png")


def _measure(case: Case, device: torch.device, rounds: int) -> dict[str, Any]:
    """Medians of the times, and of the ratios to ours within each round."""
    for arm in case.arms.values():
        _time(arm, device, _WARM_UP_S)
    times = []
    for _ in range(rounds):
        times.append({name: _time(arm, device, _MEASURE_S) for name, arm in case.arms.items()})
        times[-1]["floor"] = case.bytes / _bandwidth(device)
    ratios = {
        name: statistics.median(_without_layer(t, name) / t["ours"] for t in times)
        for name in times[0]
        if name not in ("ours", "layer")
    }
    us = {name: 1e6 * statistics.median(t[name] for t in times) for name in times[0]}
    figures = "  ".join(f"{name} {value:.2f}" for name, value in ratios.items())
    print(f"{case.title:34} ours {us['ours']:8.1f} us   times ours: {figures}", flush=True)
    return {"case": case.title, "us": us, "ratio_to_ours": ratios}


def _without_layer(times: dict[str, float], name: str) -> float:
    """PEFT's time includes the layer that it adapts."""
    return times[name] - times["layer"] if name == "PEFT" else times[name]


def _time(arm: Arm, device: torch.device, seconds: float) -> float:
    """Seconds of one call: the median of as many as fit."""
    calls: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(calls) < 3:
        began = time.perf_counter()
        arm()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        calls.append(time.perf_counter() - began)
    return statistics.median(calls)


def _bandwidth(device: torch.device) -> float:
    """Bytes per second that the memory gives when it is read through."""
    # Written to: pages of zeros that nobody wrote are all the same one.
    numbers = torch.ones(64 << 20, dtype=torch.float32, device=device)
    return numbers.nbytes / _time(lambda: numbers.sum(), device, 0.1)


def _draw(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    mpl.use("Agg")  # no display needed
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(13, 5), layout="constrained")
    for axis, prefix in zip(axes, ("contrast_select ", "lora_apply "), strict=True):
        mine = [row for row in rows if row["case"].startswith(prefix)]
        names = [name for name in mine[0]["us"] if name != "layer"]
        for place, name in enumerate(names):
            at = [y + 0.8 * place / len(names) for y in range(len(mine))]
            values = [_without_layer(row["us"], name) for row in mine]
            bars = axis.barh(at, values, height=0.8 / len(names), label=name)
            axis.bar_label(bars, fmt="%.0f", fontsize=7, padding=2)
        axis.set_yticks([y + 0.3 for y in range(len(mine))])
        axis.set_yticklabels([row["case"].removeprefix(prefix) for row in mine])
        axis.set_xscale("log")
        axis.set_xlabel(f"{prefix}microseconds (logarithmic)")
        axis.invert_yaxis()
        axis.legend(fontsize="small")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
