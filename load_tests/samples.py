"""What a load test measures: one sample a request, and the figures over all of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

KINDS = ("ok", "bad_input", "hang_up", "gave_up", "refused", "late", "error")
PERCENTILES = (50, 90, 95, 99)
METRICS = ("ttft_ms", "itl_ms", "latency_ms")

_SLO = re.compile(r"(\w+):(\d+(?:\.\d+)?)")
_LIMIT = re.compile(r"([\w.]+)\s*([<>])\s*(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Sample:
    """One request.

    Attributes:
        kind: one of KINDS. `bad_input` was refused as it should be, `hang_up` was left by the
            client midway, `gave_up` by one that did not wait for its end, `refused` met an
            overloaded server, `late` its deadline; only `error` is a failure.
        protocol: `grpc`, `sse` or `generate`.
        start_s: when it was sent, seconds since 1970.
        ttft_ms: until the first response; None where there is one response only.
        latency_ms: until the last.
        output_tokens: of an `ok` request.
        message: what the server said, unless it was `ok`.
    """

    kind: str
    protocol: str
    start_s: float
    ttft_ms: float | None
    latency_ms: float
    output_tokens: int = 0
    message: str = ""

    @property
    def end_s(self) -> float:
        """When it ended, seconds since 1970."""
        return self.start_s + self.latency_ms / 1000

    @property
    def itl_ms(self) -> float | None:
        """Inter-token latency, (latency - TTFT) / (output tokens - 1)."""
        if self.ttft_ms is None or self.output_tokens < 2:
            return None
        return (self.latency_ms - self.ttft_ms) / (self.output_tokens - 1)

    def meets(self, slo: Mapping[str, float]) -> bool:
        """Whether it is `ok` and within every limit that applies to it."""
        values = ((getattr(self, name), limit) for name, limit in slo.items())
        return self.kind == "ok" and all(v is None or v <= limit for v, limit in values)


def parse_slo(text: str) -> tuple[str, float]:
    """`ttft_ms:2000` -> its parts. Raises ValueError."""
    match = _SLO.fullmatch(text)
    if not match or match[1] not in METRICS:
        raise ValueError(
            f"slo: must be one of {', '.join(METRICS)}, ':' and a number, got {text!r}"
        )
    return match[1], float(match[2])


@dataclass(frozen=True, slots=True)
class Threshold:
    """A condition under which a load test has failed, `error_share > 0.01` for instance."""

    figure: str
    above: bool
    limit: float

    @classmethod
    def parse(cls, text: str) -> Threshold:
        """Raises ValueError; which figures there are, only a summary knows."""
        match = _LIMIT.fullmatch(text.strip())
        if not match:
            raise ValueError(f"fail-if: must be FIGURE > NUMBER or FIGURE < NUMBER, got {text!r}")
        return cls(match[1], match[2] == ">", float(match[3]))

    def is_crossed(self, figures: Mapping[str, float | None]) -> bool:
        """Raises ValueError if there is no such figure. A figure without a value crosses."""
        if self.figure not in figures:
            known = ", ".join(sorted(figures))
            raise ValueError(f"fail-if: no figure {self.figure!r}; there are {known}")
        value = figures[self.figure]
        return value is None or (value > self.limit if self.above else value < self.limit)

    def __str__(self) -> str:
        return f"{self.figure} {'>' if self.above else '<'} {self.limit:g}"


def figures(
    samples: Sequence[Sample], duration_s: float, slo: Mapping[str, float]
) -> dict[str, float | None]:
    """All figures of a test by name; None where nothing was measured."""
    counts = Counter(sample.kind for sample in samples)
    total, ok = len(samples), [s for s in samples if s.kind == "ok"]
    good = sum(sample.meets(slo) for sample in samples)
    found: dict[str, float | None] = {
        "requests": total,
        **{kind: counts[kind] for kind in KINDS},
        **{f"{kind}_share": counts[kind] / total if total else None for kind in KINDS},
        "requests_per_s": total / duration_s,
        "output_tokens_per_s": sum(s.output_tokens for s in ok) / duration_s,
        "goodput_per_s": good / duration_s,
        "goodput_share": good / len(ok) if ok else None,
    }
    for metric in METRICS:
        values = [value for s in ok if (value := getattr(s, metric)) is not None]
        for p in PERCENTILES:
            found[f"{metric}.p{p}"] = float(np.percentile(values, p)) if values else None
        found[f"{metric}.mean"] = float(np.mean(values)) if values else None
    return found


def by_level(
    samples: Sequence[Sample],
    level: Callable[[float], int | None],
    begun_s: float,
    slo: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Figures by load, for the samples that started while the load was that.

    Args:
        level: users by seconds since the beginning.
    """
    groups: dict[int, list[Sample]] = {}
    for sample in samples:
        users = level(sample.start_s - begun_s)
        if users is not None:
            groups.setdefault(users, []).append(sample)
    result = []
    for users, group in sorted(groups.items()):
        starts = [sample.start_s for sample in group]
        result.append({"users": users} | figures(group, max(1.0, max(starts) - min(starts)), slo))
    return result


def table(found: Mapping[str, float | None]) -> str:
    """The figures for people."""
    lines = [f"{'':<14}" + "".join(f"{f'p{p}':>10}" for p in PERCENTILES) + f"{'mean':>10}"]
    for metric in METRICS:
        names = [*(f"p{p}" for p in PERCENTILES), "mean"]
        cells = (_shown(found[f"{metric}.{name}"]) for name in names)
        lines.append(f"{metric:<14}" + "".join(f"{cell:>10}" for cell in cells))
    rates = ("requests_per_s", "output_tokens_per_s", "goodput_per_s", "goodput_share")
    lines.append("   ".join(f"{name} {_shown(found[name])}" for name in rates))
    lines.append("   ".join(f"{kind} {found[kind]:.0f}" for kind in KINDS))
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
