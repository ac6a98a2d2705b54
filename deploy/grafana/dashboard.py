"""The panels of dashboard.json and their queries."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).with_name("dashboard.json")


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel.

    Attributes:
        expression: PromQL with Grafana's variables.
        legend: name of a series, with `{{label}}` in the places of its labels.
    """

    expression: str
    legend: str

    def promql(self, *, rate_s: int, instance: str = ".*") -> str:
        """The query as Prometheus takes it.

        Args:
            rate_s: seconds that rates are taken over; at least four scrape intervals.
            instance: regular expression of the servers' instances.
        """
        expression = self.expression.replace("$__rate_interval", f"{rate_s}s")
        return expression.replace("$instance", instance)

    def label(self, labels: dict[str, str]) -> str:
        """The legend of a series with these labels."""
        text = re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), self.legend)
        return text.strip()


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is, in cells of Grafana's grid of 24 columns."""

    x: int
    y: int
    w: int
    h: int


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel that draws queries over time.

    Attributes:
        unit: Grafana's name of it.
        stacked: whether the series are drawn on top of each other.
        limit: highest value of the axis, None if it follows the values.
    """

    title: str
    place: Place
    unit: str
    stacked: bool
    limit: float | None
    queries: tuple[Query, ...]


def rows() -> list[tuple[str, Place]]:
    """Titles and places of the headings."""
    return [
        (panel["title"], Place(**panel["gridPos"])) for panel in _all() if panel["type"] == "row"
    ]


def panels() -> list[Panel]:
    """The panels in their order, rows left out."""
    found = []
    for panel in _all():
        if panel["type"] == "row":
            continue
        defaults = panel["fieldConfig"]["defaults"]
        queries = tuple(Query(t["expr"], t["legendFormat"]) for t in panel["targets"])
        stacked = "stacking" in defaults["custom"]
        found.append(
            Panel(
                title=panel["title"],
                place=Place(**panel["gridPos"]),
                unit=defaults["unit"],
                stacked=stacked,
                limit=defaults.get("max"),
                queries=queries,
            )
        )
    return found


def _all() -> list[dict[str, Any]]:
    document = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = document["panels"]
    return found
