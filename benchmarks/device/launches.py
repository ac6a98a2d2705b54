"""What one decoding step launches and waits for, as torch's profiler sees it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from torch.profiler import ProfilerActivity, profile

from benchmarks.device.bench import Bench, is_of_host
from cold_kernels import Mode

_DEAREST = 20
_LAUNCHES = ("LaunchKernel", "GraphLaunch")
_COPIES = ("MemcpyAsync", "MemsetAsync")
_WAITS = ("Synchronize",)


def run(bench: Bench) -> dict[str, Any]:
    """By the number of sequences."""
    return {str(n): _of(bench, n) for n in bench.sizes.sequences}


def _of(bench: Bench, sequences: int) -> dict[str, Any]:
    context = max(bench.sizes.contexts)
    tokens = np.arange(1, 1 + sequences, dtype=np.int64)
    step = bench.subject.step(tokens, context, Mode.COLD)
    for _ in range(2):
        bench.subject.execution.execute(step)
    activities = [ProfilerActivity.CPU]
    if not bench.is_cpu:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, acc_events=True) as profiler:
        bench.subject.execution.execute(step)
    averages: Any = profiler.key_averages()
    calls = Counter[str]()
    for entry in averages:
        for name, marks in (("launches", _LAUNCHES), ("copies", _COPIES), ("waits", _WAITS)):
            if entry.key.startswith("cu") and any(mark in entry.key for mark in marks):
                calls[name] += entry.count
    host = [entry for entry in averages if is_of_host(entry)]
    device = [entry for entry in averages if not is_of_host(entry)]
    found = {
        "calls": dict(calls),
        "device_ms": sum(e.self_device_time_total for e in device) / 1e3,
        "device_kernels": sum(e.count for e in device),
        "host": _dearest(host, "self_cpu_time_total"),
        "device": _dearest(device, "self_device_time_total"),
    }
    print(f"{sequences} sequences: {found['calls']}, {found['device_ms']:.2f} ms on the device")
    for side in ("host", "device"):
        for name, count, ms in found[side]:
            print(f"    {side:6} {ms:9.3f} ms {count:6} x {name[:90]}")
    return found


def _dearest(entries: list[Any], by: str) -> list[tuple[str, int, float]]:
    """Name, count and milliseconds."""
    entries = sorted(entries, key=lambda entry: -getattr(entry, by))[:_DEAREST]
    return [(e.key[:120], e.count, round(getattr(e, by) / 1e3, 4)) for e in entries]
