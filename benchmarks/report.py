"""The table and the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from benchmarks.measure import REFERENCE, Row


def table(rows: Sequence[Row]) -> str:
    """The medians as text."""
    lines = [
        f"{'arm':<22}{'streams':>8}{'TTFT ms':>10}{'ms/token':>10}{'tokens/s':>10}"
        f"{'x ms/token':>12}{'x tokens/s':>12}"
    ]
    lines += [
        f"{row.arm:<22}{row.streams:>8}{row.ttft_ms:>10.0f}{row.ms_per_token:>10.1f}"
        f"{row.tokens_per_s:>10.1f}{row.ratio_ms_per_token:>12.2f}{row.ratio_tokens_per_s:>12.2f}"
        for row in rows
    ]
    lines.append(f"x: ratio to {REFERENCE} at 1 stream, median of the ratios within each round")
    return "\n".join(lines)


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Time per token at one stream beside the throughput at 1 and more."""
    mpl.use("Agg")  # no display needed
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    single = [row for row in rows if row.streams == 1]
    names = [row.arm for row in single]
    medians = [row.ms_per_token for row in single]
    spread = [
        [row.ms_per_token - row.ms_per_token_min for row in single],
        [row.ms_per_token_max - row.ms_per_token for row in single],
    ]
    bars = left.barh(names, medians, xerr=spread, color=[_colour(name) for name in names])
    left.bar_label(bars, fmt="%.0f", label_type="center", color="white")
    left.invert_yaxis()
    left.set_xlabel("ms per token, 1 stream (median; line: min to max)")
    for name in dict.fromkeys(row.arm for row in rows if row.streams > 1):
        points = [(row.streams, row.tokens_per_s) for row in rows if row.arm == name]
        right.plot(*zip(*points, strict=True), marker="o", label=name)
    right.set_xticks(sorted({row.streams for row in rows}))
    right.set_xlabel("streams at once")
    right.set_ylabel("tokens per second, all streams")
    right.set_ylim(bottom=0)
    right.legend(fontsize="small")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _colour(arm: str) -> str:
    return "tab:blue" if arm.startswith(("server", "ensemble", "in_process")) else "tab:gray"
