"""What the server is held to: ratios of arms that were measured side by side in one run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.measure import Cell, Series


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar and what was measured; no value if an arm could not run here."""

    what: str
    value: float | None
    limit: float
    is_floor: bool = False

    @property
    def is_met(self) -> bool:
        if self.value is None:
            return False
        return self.value >= self.limit if self.is_floor else self.value <= self.limit


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that the bars are computed from.

    Attributes:
        cells: what was measured, and its series.
        first_tokens: the same for prompts of 256 tokens.
        model_bytes: of one copy of the model.
        memory: what loading took, see `in_process`.
    """

    cells: Sequence[tuple[Cell, Series]]
    first_tokens: Sequence[tuple[Cell, Series]]
    model_bytes: int
    memory: dict[str, int]

    def ms_per_token(self, arm: str, streams: int = 1) -> list[float] | None:
        return _values(self.cells, arm, streams, "ms_per_token")

    def tokens_per_s(self, arm: str, streams: int) -> list[float] | None:
        return _values(self.cells, arm, streams, "tokens_per_s")

    def ttft_ms(self, arm: str) -> list[float] | None:
        return _values(self.first_tokens, arm, 1, "ttft_ms")


def bars(r: Results) -> list[Bar]:
    """All bars, in the order of the table in docs/performance.md."""
    ms, rate = r.ms_per_token, r.tokens_per_s
    cold, in_process = ms("server_cold"), ms("in_process_cold")
    alone = [ms(arm) or [] for arm in ("base_forward", "adapter_forward")]
    both_ms = [base + expert for base, expert in zip(*alone, strict=True)]
    ttft = r.ttft_ms("server_cold"), r.ttft_ms("peft_unmerged_prefill")
    taken = r.memory["fused_bytes"] - r.memory["kv_cache_bytes"]
    at_most = {
        "CoLD ms/token / PEFT unmerged greedy": (_ratio(cold, ms("peft_unmerged_greedy")), 0.3),
        "CoLD ms/token / vLLM greedy, merged": (_ratio(cold, ms("vllm_merged_greedy")), 1.0),
        "CoLD ms/token / own greedy, merged": (_ratio(cold, ms("server_merged_greedy")), 1.15),
        "CoLD ms/token in process / reading weights": (_ratio(in_process, ms("read_weights")), 1.6),
        "CoLD ms/token / naive two-pass CoLD": (_ratio(cold, ms("naive_two_pass_cold")), 0.2),
        "CoLD ms/token / PEFT mixed-batch CoLD": (_ratio(cold, ms("peft_mixed_batch_cold")), 0.3),
        "ms/token of tritonserver, 1 stream": (_difference(cold, in_process), 0.5),
        "ms/token, 16 streams / in process": (
            _ratio(ms("server_cold", 16), ms("in_process_cold", 16)),
            1.1,
        ),
        "TTFT at 256 tokens / expert's prefill, PEFT": (_ratio(*ttft), 1.3),
        "ms/step of the ensemble beyond both forwards": (
            _difference(ms("ensemble_cold"), both_ms),
            3.0,
        ),
        "peak memory without KV caches / one model": (taken / r.model_bytes, 1.15),
    }
    at_least = {
        f"CoLD tokens/s, {n} streams / vLLM greedy, {peer}": (
            _ratio(rate("server_cold", n), rate(f"vllm_{peer}_greedy", n)),
            limit,
        )
        for peer, limit in (("unmerged", 2.5), ("merged", 0.7))
        for n in (8, 16)
    }
    return [
        *(Bar(what, value, limit) for what, (value, limit) in at_most.items()),
        *(Bar(what, value, limit, is_floor=True) for what, (value, limit) in at_least.items()),
    ]


def table(all_bars: Sequence[Bar]) -> str:
    """The bars as text."""
    lines = [f"{'bar':<52}{'measured':>10}{'limit':>10}"]
    for bar in all_bars:
        value = "not run" if bar.value is None else f"{bar.value:.2f}"
        limit = f"{'>=' if bar.is_floor else '<='} {bar.limit:.2f}"
        lines.append(f"{bar.what:<52}{value:>10}{limit:>10}  {'met' if bar.is_met else 'NOT MET'}")
    return "\n".join(lines)


def _values(
    cells: Sequence[tuple[Cell, Series]], arm: str, streams: int, kind: str
) -> list[float] | None:
    for cell, series in cells:
        if (cell.arm, cell.streams) == (arm, streams):
            values: list[float] = getattr(series, kind)
            return values
    return None


def _ratio(ours: list[float] | None, theirs: list[float] | None) -> float | None:
    """The median of each round's own ratio."""
    if not ours or not theirs:
        return None
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def _difference(ours: list[float] | None, theirs: list[float] | None) -> float | None:
    if not ours or not theirs:
        return None
    return statistics.median(a - b for a, b in zip(ours, theirs, strict=True))
