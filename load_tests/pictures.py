"""Draws a load test: latencies over time and as histograms, latency and goodput against load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from load_tests.samples import Sample

_SHOWN = (("ttft_ms", "TTFT"), ("itl_ms", "ITL"))


def draw(
    samples: Sequence[Sample], begun_s: float, levels: Sequence[dict[str, Any]], path: Path
) -> None:
    """Writes a PNG.

    Args:
        samples: of all kinds; only `ok` ones have latencies.
        begun_s: when the test began.
        levels: figures by number of users.
        path: where to.
    """
    mpl.use("Agg")  # no display needed
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(14, 7), layout="constrained")
    ok = [sample for sample in samples if sample.kind == "ok"]
    for row, (metric, title) in zip(axes, _SHOWN, strict=True):
        points = [(s.start_s - begun_s, v) for s in ok if (v := getattr(s, metric)) is not None]
        if points:
            row[0].scatter(*zip(*points, strict=True), s=6)
            row[1].hist([value for _, value in points], bins=40)
        row[0].set(xlabel="seconds", ylabel=f"{title} in ms", ylim=(0, None))
        row[1].set(xlabel=f"{title} in ms", ylabel="requests")
    latency, goodput = axes[0][2], axes[1][2]
    users = [level["users"] for level in levels]
    for metric, title in _SHOWN:
        for percentile in (50, 95):
            values = [level[f"{metric}.p{percentile}"] for level in levels]
            latency.plot(users, values, marker="o", label=f"{title} p{percentile}")
    latency.set(xlabel="users", ylabel="ms", yscale="log")
    latency.legend(fontsize="small")
    for name in ("requests_per_s", "goodput_per_s"):
        goodput.plot(users, [level[name] for level in levels], marker="o", label=name)
    goodput.set(xlabel="users", ylabel="per second", ylim=(0, None))
    goodput.legend(fontsize="small")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
