"""The report as one HTML file, which needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from cold_eval.colours import colour
from cold_eval.decodings import BASE, GREEDY
from cold_eval.flips import flip_groups
from cold_eval.items import Task
from cold_eval.report import TaskReport
from cold_eval.results import Result
from cold_eval.statistics import Summary

_PLOT_WIDTH = 160
_PLOT_MARGIN = 6
_BAR_WIDTH = 150


def html_report(
    settings: Mapping[str, Any],
    tasks: Sequence[Task],
    reports: Sequence[TaskReport],
    results: Sequence[Result],
) -> str:
    """The page for tasks whose results are there."""
    page = files("cold_eval").joinpath("page")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(page.joinpath("report.html.j2").read_text("utf-8"))
    by_name = {task.name: task for task in tasks}
    return template.render(
        title=_title(settings["model"]),
        style=_Safe(page.joinpath("report.css").read_text("utf-8")),
        best=colour(1),
        worst=colour(-1),
        tasks=[
            _task(number, report, settings, by_name[report.task], results)
            for number, report in enumerate(reports)
        ],
        settings=_compact(settings),
    )


class _Safe(str):
    """Text that is HTML already."""

    def __html__(self) -> str:
        return self


def _compact(settings: Mapping[str, Any]) -> str:
    """A line for each task and decoding."""
    lines = []
    for name, value in settings.items():
        rows = value if isinstance(value, list) else [value]
        texts = [json.dumps(_given(row)) for row in rows]
        lines.append(f"{name}: " + "\n    ".join(["", *texts] if len(texts) > 1 else texts))
    return "\n".join(lines)


def _given(value: Any) -> Any:
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _title(model: Mapping[str, Any]) -> str:
    if "url" in model:
        return f"adapter {model['lora_name'] or '(default)'} of {model['url']}"
    return f"adapter {model['adapter']['name']} of {model['base_model']['name']}"


def _task(
    number: int,
    report: TaskReport,
    settings: Mapping[str, Any],
    task: Task,
    results: Sequence[Result],
) -> dict[str, Any]:
    found = report.summaries
    points = {
        d["name"]: d
        for d in settings["decodings"]
        if d["kind"] == "cold" and d["lora_scale"] == 1  # others belong to another picture
    }
    grid = {name: summary for name, summary in found.items() if name in points}
    # Of equal ones the mildest.
    best = max(
        grid,
        key=lambda name: (grid[name].score, -points[name]["beta"], points[name]["alpha"]),
        default="",
    )
    drawn = [s for name, s in found.items() if name != BASE.name]
    widest = max(max(s.won, s.lost) for s in drawn) or 1
    scale = _Scale(drawn)
    return {
        "id": f"task{number}",
        "name": report.task,
        "scorer": report.scorer,
        "count": found[GREEDY.name].items,
        "greedy": _percent(found[GREEDY.name].score),
        "greedy_x": scale.x(found[GREEDY.name].score),
        "sentence": _sentence(best, grid),
        "best": _row(best, grid[best], report, scale, widest) | {"point": best} if best else None,
        "grids": _grids(grid, points),
        "rows": [_row(name, s, report, scale, widest) for name, s in found.items()],
        "flips": flip_groups(task, results, found, first=best),
    }


def _sentence(best: str, grid: Mapping[str, Summary]) -> str:
    if not best:
        return ""
    s = grid[best]
    if s.difference <= 0:
        return "No point of the grid answers better than greedy."
    sure = "beyond" if s.p < 0.05 else "within"
    return (
        f"The best point, {best}, is {100 * s.difference:.1f} points better than greedy, "
        f"{sure} noise (p = {s.p:.2g})."
    )


class _Scale:
    """Places scores on the width of a small picture."""

    def __init__(self, summaries: Sequence[Summary]) -> None:
        self._low = min(s.low for s in summaries)
        self._span = (max(s.high for s in summaries) - self._low) or 1.0

    def x(self, score: float) -> float | None:
        """None if it is off the picture."""
        share = (score - self._low) / self._span
        if not 0 <= share <= 1:
            return None
        return round(_PLOT_MARGIN + share * (_PLOT_WIDTH - 2 * _PLOT_MARGIN), 1)


def _row(name: str, s: Summary, report: TaskReport, scale: _Scale, widest: int) -> dict[str, Any]:
    is_greedy = name == GREEDY.name
    tokens, contested, changed = report.texts(name)
    return {
        "name": name,
        "is_greedy": is_greedy,
        "is_drawn": name not in (GREEDY.name, BASE.name),
        "score": _percent(s.score),
        "interval": f"{_percent(s.low)} to {_percent(s.high)}",
        "x": scale.x(s.score),
        "x_low": scale.x(s.low),
        "x_high": scale.x(s.high),
        "difference": "" if is_greedy else _signed(s.difference),
        "difference_interval": ""
        if is_greedy
        else f"{_signed(s.difference_low)} to {_signed(s.difference_high)}",
        "tone": "" if s.p >= 0.05 else "gain" if s.difference > 0 else "loss",
        "won": s.won,
        "lost": s.lost,
        "won_width": round(_BAR_WIDTH * s.won / widest, 1),
        "lost_width": round(_BAR_WIDTH * s.lost / widest, 1),
        "won_lost": "" if is_greedy else f"{s.won} / {s.lost}",
        "p": "" if is_greedy else f"{s.p:.2g}",
        "tokens": tokens,
        "contested": contested,
        "changed": changed,
    }


def _grids(grid: Mapping[str, Summary], points: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A picture for each amateur and rule of beta, all on one scale."""
    kinds: dict[str, dict[tuple[float, float], Summary]] = {}
    for name, summary in grid.items():
        point = points[name]
        rule = ", beta by divergence" if point["by_divergence"] else ""
        of_kind = kinds.setdefault(f"against {point['amateur']}{rule}", {})
        of_kind[point["alpha"], point["beta"]] = summary
    # At least five points, so that noise on few items does not look like a storm.
    largest = max([0.05, *(abs(s.difference) for s in grid.values())])
    return [_grid(kind, by_place, largest) for kind, by_place in kinds.items()]


def _grid(
    kind: str, by_place: Mapping[tuple[float, float], Summary], largest: float
) -> dict[str, Any]:
    alphas, betas = (sorted({place[axis] for place in by_place}) for axis in range(2))
    return {
        "kind": kind,
        "betas": [f"{beta:g}" for beta in betas],
        "scale": f"{100 * largest:.0f} points",
        "rows": [
            {
                "alpha": f"{alpha:g}",
                "cells": [_cell(by_place.get((alpha, beta)), largest) for beta in betas],
            }
            for alpha in alphas
        ],
    }


def _cell(s: Summary | None, largest: float) -> dict[str, str] | None:
    if s is None:
        return None
    return {
        "colour": colour(s.difference / largest),
        "score": _percent(s.score),
        "difference": _signed(s.difference),
        "title": f"{s.won} won, {s.lost} lost, p = {s.p:.2g}",
    }


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}"
