"""The outcome of a load test: a table, a JSON file and a picture."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load_tests.pictures import draw
from load_tests.samples import Sample, by_level, figures, table
from load_tests.shapes import Shape


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is known at the end.

    Attributes:
        sent: requests; each has a sample, unless it was lost.
        begun_s: when the test began, seconds since 1970.
        slo: limits by metric, for goodput.
        settings: what to put into the JSON file beside the figures.
    """

    sent: int
    samples: Sequence[Sample]
    begun_s: float
    shape: Shape
    slo: dict[str, float]
    settings: dict[str, Any]

    @property
    def figures(self) -> dict[str, float | None]:
        """All figures by name."""
        ends = [self.shape.duration_s, *(s.end_s - self.begun_s for s in self.samples)]
        # A test that ends after so many requests does not last as long as it might.
        found = figures(self.samples, min(ends[0], max(ends[1:], default=1.0)), self.slo)
        return {"sent": self.sent, **found}

    @property
    def levels(self) -> list[dict[str, Any]]:
        """The figures by number of users."""
        return by_level(self.samples, self.shape.users, self.begun_s, self.slo)

    def text(self) -> str:
        """For a terminal: the figures, and what was wrong."""
        lines = [f"{count:6} x {message}" for message, count in self._messages().items()]
        return "\n".join([table(self.figures), *lines])

    def write(self, directory: Path) -> None:
        """Writes load.json and load.png."""
        directory.mkdir(parents=True, exist_ok=True)
        by_protocol = Counter(f"{s.protocol} {s.kind}" for s in self.samples)
        document = {
            "settings": self.settings,
            "figures": self.figures,
            "levels": self.levels,
            "requests": dict(sorted(by_protocol.items())),
            "messages": self._messages(),
        }
        (directory / "load.json").write_text(json.dumps(document, indent=1) + "\n")
        draw(self.samples, self.begun_s, self.levels, directory / "load.png")

    def _messages(self) -> dict[str, int]:
        """How often the server said what, of errors and refusals; the most frequent ones."""
        wrong = Counter(s.message for s in self.samples if s.kind in ("error", "refused"))
        return dict(wrong.most_common(50))
