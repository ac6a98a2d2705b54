"""Draws the dashboard as Grafana lays it out, in its dark theme."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import IdentityTransform
from PIL import Image

from deploy.grafana.dashboard import Panel, Place, rows

COLUMNS = 24
_WIDTH, _CELL_H, _TOP, _GAP = 1440, 30, 54, 6  # pixels
_LABELS_W, _TIMES_H, _LEGEND_H = 52, 20, 34
_DPI = 100
_SCALES = {"bytes": 2**30}  # so that the axis has round numbers
_DAY_S = 86400  # matplotlib counts days
_PAGE, _PANEL, _EDGE, _GRID = "#111217", "#181b1f", "#2a2d33", "#2c3036"
_TEXT, _FAINT = "#ccccdc", "#8e8f9a"
_COLOURS = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#705da0")


@dataclass(frozen=True, slots=True)
class Series:
    """Values over time.

    Attributes:
        times_s: seconds since 1970.
    """

    label: str
    times_s: Sequence[float]
    values: Sequence[float]


def draw(title: str, panels: Sequence[tuple[Panel, list[Series]]], out: Path) -> None:
    """Writes the picture."""
    height = _TOP + _CELL_H * max(panel.place.y + panel.place.h for panel, _ in panels) + _GAP
    plt.rcParams.update({"font.size": 7.5, "font.family": "sans-serif", "text.color": _TEXT})
    figure = plt.figure(figsize=(_WIDTH / _DPI, height / _DPI), dpi=_DPI, facecolor=_PAGE)
    page = _Page(figure, height)
    page.write(title, 2 * _GAP, _TOP / 2, size=13)
    for heading, place in rows():
        page.write(f"⌄  {heading}", 2 * _GAP, page.top(place) + _CELL_H / 2, size=10)
    begin, end = _span(panels)
    for panel, series in panels:
        axes = page.panel(panel)
        _style(axes, panel)
        _plot(axes, panel, series)
        axes.set_xlim(begin, end)
    figure.savefig(out, facecolor=_PAGE)
    plt.close(figure)
    # Few colours are in it, and it is kept with the sources.
    Image.open(out).convert("RGB").quantize(128).save(out, optimize=True)


class _Page:
    """Places things on the figure, in pixels from the left and from above."""

    def __init__(self, figure: Figure, height: int) -> None:
        self._figure = figure
        self._height = height

    def top(self, place: Place) -> float:
        return _TOP + _CELL_H * place.y

    def write(self, text: str, x: float, y: float, *, size: float) -> None:
        self._figure.text(x / _WIDTH, 1 - y / self._height, text, fontsize=size, va="center")

    def panel(self, panel: Panel) -> Axes:
        """The frame with its title; returns where its curves go."""
        place = panel.place
        cell_w = (_WIDTH - _GAP) / COLUMNS
        left, top = _GAP + cell_w * place.x, self.top(place)
        width, height = cell_w * place.w - _GAP, _CELL_H * place.h - _GAP
        self._figure.add_artist(
            FancyBboxPatch(
                (left, self._height - top - height),
                *(width, height),
                boxstyle="round,pad=0,rounding_size=3",
                transform=None,
                zorder=-1,
                facecolor=_PANEL,
                edgecolor=_EDGE,
                linewidth=0.8,
            )
        )
        self.write(panel.title, left + 10, top + 16, size=9)
        x, y = left + _LABELS_W + 4, top + 34
        w, h = width - _LABELS_W - 18, height - 34 - _TIMES_H - _LEGEND_H
        return self._figure.add_axes(
            (x / _WIDTH, 1 - (y + h) / self._height, w / _WIDTH, h / self._height)
        )


def _style(axes: Axes, panel: Panel) -> None:
    axes.set_facecolor(_PANEL)
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_FAINT, length=0, pad=4)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _shown(value, panel.unit)))
    axes.xaxis.set_major_locator(AutoDateLocator(minticks=3, maxticks=8))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))


def _plot(axes: Axes, panel: Panel, series: list[Series]) -> None:
    floor: defaultdict[float, float] = defaultdict(float)  # by time, what is stacked so far
    scale = _SCALES.get(panel.unit, 1)
    for number, one in enumerate(series):
        colour = _COLOURS[number % len(_COLOURS)]
        times = [t / _DAY_S for t in one.times_s]
        base = [floor[t] for t in one.times_s]
        values = [low + value / scale for low, value in zip(base, one.values, strict=True)]
        axes.plot(times, values, color=colour, linewidth=1.1, label=one.label)
        axes.fill_between(times, base, values, color=colour, alpha=0.35 if panel.stacked else 0.1)
        if panel.stacked:
            floor.update(zip(one.times_s, values, strict=True))
    if not series:
        axes.text(0.5, 0.5, "No data", transform=axes.transAxes, ha="center", color=_FAINT, size=10)
        return
    axes.set_ylim(0, panel.limit)
    corner = axes.get_window_extent()
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(corner.x0 - _LABELS_W, corner.y0 - _TIMES_H),
        bbox_transform=IdentityTransform(),
        ncols=panel.place.w // 2,
        labelspacing=0.3,
        frameon=False,
        labelcolor=_TEXT,
        handlelength=1.2,
        columnspacing=1.2,
    )


def _span(panels: Sequence[tuple[Panel, list[Series]]]) -> tuple[float, float]:
    times = [t / _DAY_S for _, series in panels for one in series for t in one.times_s]
    return min(times), max(times)


def _shown(value: float, unit: str) -> str:
    """A value as Grafana writes it in a unit."""
    if unit == "percentunit":
        return f"{value * 100:g}%"
    if unit == "reqps":
        return f"{value:g} req/s"
    if unit == "bytes":
        return f"{value:g} GiB"
    if unit == "s":
        return f"{value * 1000:g} ms" if 0 < value < 1 else f"{value:g} s"
    return f"{value:g}"
