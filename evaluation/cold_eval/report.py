"""What the results say: JSON and a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from cold_eval.decodings import GREEDY
from cold_eval.results import Result
from cold_eval.statistics import Summary, summaries

Scores = dict[str, list[float]]  # by decoding, of the same items in the same order


@dataclass(frozen=True, slots=True)
class TaskReport:
    """A task's summaries by decoding, over the items that all decodings have answered.

    Attributes:
        tokens: mean length of the answers, NaN where unknown.
        contested: share of the steps that had a choice, likewise.
        changed: share of the tokens that the expert alone would not have chosen, likewise.
    """

    task: str
    scorer: str
    summaries: dict[str, Summary]
    tokens: dict[str, float]
    contested: dict[str, float]
    changed: dict[str, float]

    def texts(self, name: str) -> tuple[str, str, str]:
        """Tokens, contested and changed of a decoding, to be shown; empty where unknown."""
        tokens, contested, changed = (
            column[name] for column in (self.tokens, self.contested, self.changed)
        )
        return (
            "" if math.isnan(tokens) else f"{tokens:.0f}",
            "" if math.isnan(contested) else f"{100 * contested:.0f} %",
            "" if math.isnan(changed) else f"{100 * changed:.1f} %",
        )


def by_decoding(results: Iterable[Result], task: str) -> dict[str, dict[str, Result]]:
    """A task's results: by decoding, by item."""
    found: dict[str, dict[str, Result]] = {}
    for result in results:
        if result.task == task:
            for name in result.decodings:
                found.setdefault(name, {})[result.item] = result
    return found


def report_of(settings: Mapping[str, Any], results: Sequence[Result]) -> list[TaskReport]:
    """Sums up every task that has results."""
    names = [decoding["name"] for decoding in settings["decodings"]]
    reports = []
    for task in settings["tasks"]:
        found = by_decoding(results, task["name"])
        known = {name: found[name] for name in names if found.get(name)}
        items = common_items(known)
        if not items or GREEDY.name not in known:
            continue
        scores = {name: [known[name][item].score for item in items] for name in known}
        shares = {name: _shares([known[name][i] for i in items], name) for name in known}
        reports.append(
            TaskReport(
                task["name"],
                task["scorer"],
                summaries(scores, GREEDY.name, settings["seed"]),
                *({name: row[column] for name, row in shares.items()} for column in range(3)),
            )
        )
    return reports


def common_items(found: Mapping[str, Mapping[str, Result]]) -> list[str]:
    """Items that every decoding has answered, in the order of the first."""
    if not found:
        return []
    first, *others = found.values()
    return [item for item in first if all(item in other for other in others)]


def _shares(results: Sequence[Result], name: str) -> tuple[float, float, float]:
    tokens = sum(len(result.pieces) for result in results)
    if not tokens:
        return (math.nan,) * 3
    if any(result.decodings[name] < 0 for result in results):
        return tokens / len(results), math.nan, math.nan
    contested = sum(result.decodings[name] for result in results)
    changed = sum(len(result.changed) for result in results)
    return tokens / len(results), contested / tokens, changed / tokens


def as_json(settings: Mapping[str, Any], reports: Iterable[TaskReport]) -> dict[str, Any]:
    """The whole report; NaN is null."""
    return {
        "settings": settings,
        "tasks": {
            report.task: {
                name: summary.as_json()
                | {
                    "tokens": _known(report.tokens[name]),
                    "contested": _known(report.contested[name]),
                    "changed": _known(report.changed[name]),
                }
                for name, summary in report.summaries.items()
            }
            for report in reports
        },
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def table_of(report: TaskReport) -> Table:
    """A task's table for the terminal."""
    items = next(iter(report.summaries.values())).items
    table = Table(title=f"{report.task}: {items} items, {report.scorer}", title_justify="left")
    for title in ("decoding", "score", "95 %", "difference", "95 %", "won/lost", "p"):
        table.add_column(title, justify="left" if title == "decoding" else "right")
    for title in ("tokens", "contested", "changed"):
        table.add_column(title, justify="right")
    for name, s in report.summaries.items():
        is_reference = name == GREEDY.name
        table.add_row(
            name,
            f"{100 * s.score:.1f}",
            f"{100 * s.low:.1f}-{100 * s.high:.1f}",
            "" if is_reference else f"{100 * s.difference:+.1f}",
            ""
            if is_reference
            else f"{100 * s.difference_low:+.1f} to {100 * s.difference_high:+.1f}",
            "" if is_reference else f"{s.won}/{s.lost}",
            "" if is_reference else f"{s.p:.2g}",
            *report.texts(name),
        )
    return table
