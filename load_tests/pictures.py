"""Draws load tests: latencies, goodput against load, what faults did over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from load_tests.samples import KINDS, Sample

_BIN_S = 2.0
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


def draw_faults(samples: Sequence[Sample], rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes a PNG of requests a second by kind, with the faults and the recovery from each.

    Args:
        rows: of the faults, as `Aftermath` has them.
        path: where to.
    """
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(14, 6), layout="constrained")
    begun_s = min((s.start_s for s in samples), default=0.0)
    ends = {kind: [s.end_s - begun_s for s in samples if s.kind == kind] for kind in KINDS}
    last_s = max((end for times in ends.values() for end in times), default=1.0)
    bins = np.arange(0, last_s + 2 * _BIN_S, _BIN_S)
    counts = [np.histogram(times, bins)[0] / _BIN_S for times in ends.values()]
    axis.stackplot(bins[:-1], *counts, labels=[*ends], step="post")
    top = 1.6 * float(np.sum(counts, axis=0).max())
    for row in rows:
        at_s, ready_s = row["at_s"], row["ready_s"] or 0
        axis.axvspan(at_s, at_s + ready_s, color="grey", alpha=0.3, linewidth=0)
        axis.axvline(at_s, color="black", linewidth=0.8)
        label = row["fault"] + (f", ready after {ready_s:.1f} s" if ready_s else "")
        axis.text(at_s, top, label, rotation=90, va="top", ha="right", fontsize="small")
    axis.set(xlabel="seconds", ylabel="requests that ended, per second", ylim=(0, top))
    axis.set_xlim(0, last_s)
    axis.legend(loc="upper right", fontsize="small")
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def draw_overload(offers: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes a PNG of goodput, and of what became of the rest, against the offered load.

    Args:
        offers: as `Offer` has them; those without a factor are dots.
        path: where to.
    """
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 5), layout="constrained")
    levels = [offer for offer in offers if offer["factor"]]
    search = [offer for offer in offers if not offer["factor"]]
    rates = [offer["rate"] for offer in levels]
    axis.plot(rates, [offer["good"] for offer in levels], marker="o", label="within the limits")
    for kind in ("ok", "refused", "late"):
        shares = [offer["kinds"].get(kind, 0) / offer["sent"] for offer in levels]
        values = [share * rate for share, rate in zip(shares, rates, strict=True)]
        axis.plot(rates, values, marker=".", linestyle="--", label=kind)
    axis.scatter(
        [offer["rate"] for offer in search],
        [offer["good"] for offer in search],
        color="grey",
        label="within the limits, while searching",
    )
    axis.set(xlabel="offered requests per second", ylabel="per second", ylim=(0, None))
    axis.legend(fontsize="small")
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
