"""What faults did to a load: how requests ended, how long it took, what is left."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from load_tests.pictures import draw_faults
from load_tests.samples import KINDS, Sample
from load_tests.server import Holdings

# The bars.
_ENDS_WITHIN_S = 2.0
_READY_WITHIN_S = 15.0
_GROWTH = 1.02
# After a server is ready, until clients notice: they look for it once a second.
_RECONNECT_S = 2.0
_REGION = "cold-server-"  # the names of regions and of the server's directory begin so


@dataclass(frozen=True, slots=True)
class Event:
    """A fault that has happened.

    Attributes:
        at_s: seconds since 1970.
        ready_s: seconds until the server was ready again, from the end of the fault; None if it was
            ready all the time.
        spare: whether the spare adapter is to be served afterwards.
        as_expected: whether that is so, and whatever else the fault itself has to show.
        lasted_s: how long it was kept up, in seconds.
    """

    name: str
    at_s: float
    ready_s: float | None
    spare: bool
    as_expected: bool
    lasted_s: float = 0.0

    @property
    def over_s(self) -> float:
        """When clients no longer notice anything, seconds since 1970."""
        return self.at_s + self.lasted_s + (self.ready_s or 0) + _RECONNECT_S


@dataclass(frozen=True, slots=True)
class Aftermath:
    """A fault run.

    Attributes:
        sent: requests.
        samples: of those that ended.
        before, after: what the server held, idle and equally warm.
        left: processes and shared memory that the server left behind.
    """

    sent: int
    samples: Sequence[Sample]
    events: Sequence[Event]
    before: Holdings
    after: Holdings
    left: Sequence[str]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """For each fault: requests that it ended, the slowest of them, and the recovery."""
        return [self._row(event) for event in self.events]

    @property
    def kinds(self) -> dict[str, int]:
        """Requests by how they ended."""
        counts = Counter(sample.kind for sample in self.samples)
        return {kind: counts[kind] for kind in KINDS}

    @property
    def checks(self) -> dict[str, bool]:
        """What has to hold, and whether it does."""
        rows, held = self.rows, (self.before, self.after)
        slowest = [row["slowest_error_s"] or 0.0 for row in rows]
        ready = [event.ready_s or 0.0 for event in self.events]
        return {
            "every request had one final answer": self.sent == sum(self.kinds.values()),
            "errors come of faults alone": not self.unexplained,
            f"they came within {_ENDS_WITHIN_S:g} s": max(slowest, default=0) <= _ENDS_WITHIN_S,
            f"ready again within {_READY_WITHIN_S:g} s": max(ready, default=0) <= _READY_WITHIN_S,
            "the right requests were served": all(event.as_expected for event in self.events),
            "no traceback in an answer": not any("Traceback" in s.message for s in self.samples),
            "no name of shared memory in one": not any(_REGION in s.message for s in self.samples),
            "all slots and the KV cache free": not (self.before.busy or self.after.busy),
            "memory within 2 % of the start": _grew(*(h.memory_bytes for h in held)) <= _GROWTH,
            "/dev/shm within 2 % of the start": _grew(*(h.shared_bytes for h in held)) <= _GROWTH,
            "no process and no shared memory left": not self.left,
        }

    @property
    def unexplained(self) -> list[Sample]:
        """Errors outside of every fault's time, but for requests for an adapter that is gone."""
        return [
            sample
            for sample in self.samples
            if sample.kind == "error"
            and not (_names_adapter(sample) and self._spare_is_gone(sample))
            and not any(_meets(sample, event) for event in self.events)
        ]

    def write(self, directory: Path, circumstances: dict[str, Any]) -> None:
        """Writes faults.json and faults.png."""
        directory.mkdir(parents=True, exist_ok=True)
        errors = Counter(s.message for s in self.samples if s.kind == "error")
        document = {
            "circumstances": circumstances,
            "checks": self.checks,
            "requests": {"sent": self.sent, **self.kinds},
            "faults": self.rows,
            "held_before": asdict(self.before),
            "held_after": asdict(self.after),
            "left": list(self.left),
            "errors": dict(errors.most_common(20)),
            "unexplained": [asdict(sample) for sample in self.unexplained[:20]],
        }
        (directory / "faults.json").write_text(json.dumps(document, indent=1) + "\n")
        draw_faults(self.samples, self.rows, directory / "faults.png")

    def text(self) -> str:
        """For a terminal."""
        lines = [f"{'fault':<26}{'errors':>8}{'slowest':>10}{'ready':>9}{'answer':>9}"]
        for row in self.rows:
            names = ("slowest_error_s", "ready_s", "answer_s")
            times = ("-" if row[name] is None else f"{row[name]:.1f} s" for name in names)
            cells = f"{row['errors']:>8}{next(times):>10}{next(times):>9}{next(times):>9}"
            lines.append(f"{row['fault']:<26}{cells}")
        lines.append("   ".join(f"{kind} {count}" for kind, count in self.kinds.items()))
        for name in ("memory_bytes", "shared_bytes"):
            before, after = getattr(self.before, name), getattr(self.after, name)
            grew = 100 * (_grew(before, after) - 1)
            lines.append(f"{name}: {before >> 20} MB, then {after >> 20} MB ({grew:+.1f} %)")
        lines += [f"{'ok' if held else 'FAILED':<8}{check}" for check, held in self.checks.items()]
        return "\n".join(lines)

    def _spare_is_gone(self, sample: Sample) -> bool:
        """Whether it was, at some time while a request ran."""
        ends = [*(event.over_s for event in self.events[1:]), math.inf]
        return any(
            sample.start_s < end_s and sample.end_s > event.at_s
            for event, end_s in zip(self.events, ends, strict=True)
            if not event.spare
        )

    def _row(self, event: Event) -> dict[str, Any]:
        errors = [
            s
            for s in self.samples
            if s.kind == "error" and _meets(s, event) and not _names_adapter(s)
        ]
        # What was sent while there was no server counts from when it was sent.
        # What hangs may take as long as the fault.
        begun_s = event.at_s + event.lasted_s
        slowest = max((max(0, s.end_s - max(s.start_s, begun_s)) for s in errors), default=None)
        resumed_s = begun_s + (event.ready_s or 0)
        answers = [s.end_s for s in self.samples if s.kind == "ok" and s.start_s > resumed_s]
        return {
            "fault": event.name,
            "at_s": event.at_s - min((s.start_s for s in self.samples), default=event.at_s),
            "errors": len(errors),
            "slowest_error_s": slowest,
            "ready_s": event.ready_s,
            "answer_s": min(answers) - event.at_s if answers else None,
        }


def _meets(sample: Sample, event: Event) -> bool:
    """Whether a request ran or was sent during a fault."""
    return sample.start_s < event.over_s and sample.end_s > event.at_s


def _names_adapter(sample: Sample) -> bool:
    """Whether a request was refused for its adapter."""
    return sample.message.startswith("AdapterNotFound") or ": lora_name: " in sample.message


def _grew(before: int, after: int) -> float:
    return after / before if before else 1.0
