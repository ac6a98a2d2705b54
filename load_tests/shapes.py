"""How the load changes over time."""

from __future__ import annotations

import re
from dataclasses import dataclass

SHAPES = ("constant", "steps", "spike")


@dataclass(frozen=True, slots=True)
class Shape:
    """Users by time.

    Attributes:
        kind: `constant`; `steps`, each level for an equal time; `spike`, four times the users in
            the middle fifth.
        levels: users; of `constant` and `spike` one.
        duration_s: of the whole test.
    """

    kind: str
    levels: tuple[int, ...]
    duration_s: float

    def __post_init__(self) -> None:
        if self.kind not in SHAPES:
            raise ValueError(f"shape: must be one of {', '.join(SHAPES)}, got {self.kind!r}")
        if not self.levels or min(self.levels) < 1:
            raise ValueError("levels: must be numbers of at least 1")
        if self.kind != "steps" and len(self.levels) > 1:
            raise ValueError(f"levels: {self.kind} has one, got {len(self.levels)}")
        if self.duration_s <= 0:
            raise ValueError("duration: must be above 0")

    def users(self, time_s: float) -> int | None:
        """How many users there should be; None before the beginning and after the end."""
        if not 0 <= time_s < self.duration_s:
            return None
        part = time_s / self.duration_s
        if self.kind == "steps":
            return self.levels[int(part * len(self.levels))]
        factor = 4 if self.kind == "spike" and 0.4 <= part < 0.6 else 1
        return factor * self.levels[0]


def parse_duration_s(text: str) -> float:
    """`90`, `90s`, `15m` or `1h` in seconds. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match:
        raise ValueError(f"duration: must be a number and s, m or h, got {text!r}")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
