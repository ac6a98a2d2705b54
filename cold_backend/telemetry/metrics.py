"""What the server measures of itself: the families, and what is new in them."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass, field
from enum import Enum

Labels = tuple[str, ...]  # values, in the order of Family.labels


class Kind(Enum):
    """How values of a family come together."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """One Prometheus metric.

    Attributes:
        labels: names.
        buckets: upper limits, of a histogram.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_FAST_S = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)
_SLOW_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0)


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(name, Kind.COUNTER, text, labels)


def _gauge(name: str, text: str) -> Family:
    return Family(name, Kind.GAUGE, text)


def _seconds(name: str, text: str, buckets: tuple[float, ...]) -> Family:
    return Family(name, Kind.HISTOGRAM, text, (), buckets)


REQUESTS = _counter("cold_requests_total", "Requests that ended", "adapter", "decoding", "outcome")
ERRORS = _counter("cold_errors_total", "Requests that ended with an error", "code")
PROMPT_TOKENS = _counter(
    "cold_prompt_tokens_total", "Prompt tokens of admitted requests", "adapter"
)
OUTPUT_TOKENS = _counter("cold_output_tokens_total", "Tokens generated", "adapter")
_OF_CONTRAST = ("adapter", "amateur")
CONTRASTED = _counter("cold_contrasted_tokens_total", "Tokens chosen by contrast", *_OF_CONTRAST)
CONTESTED = _counter(
    "cold_contested_tokens_total", "Contrasted tokens with more than one valid token", *_OF_CONTRAST
)
CHANGED = _counter(
    "cold_changed_tokens_total", "Contrasted tokens other than the expert's own best", *_OF_CONTRAST
)
STEPS = _counter("cold_steps_total", "Decoding steps")
STEP_SECONDS = _counter("cold_step_seconds_total", "Time in decoding steps", "part")
TTFT = _seconds("cold_time_to_first_token_seconds", "From acceptance to the first token", _SLOW_S)
ITL = _seconds(
    "cold_inter_token_latency_seconds",
    "Mean of a request: (latency - TTFT) / (output tokens - 1)",
    _FAST_S,
)
QUEUE = _seconds("cold_queue_seconds", "From acceptance to being run", _SLOW_S)
LATENCY = _seconds("cold_request_seconds", "From acceptance to the end", _SLOW_S)
RUNNING = _gauge("cold_running_sequences", "Requests that run")
WAITING = _gauge("cold_waiting_sequences", "Requests that wait")
MAX_SEQUENCES = _gauge("cold_max_sequences", "Requests that can run at once")
KV_BLOCKS = _gauge("cold_kv_blocks", "Blocks of the KV cache, 16 tokens each")
KV_USED = _gauge("cold_kv_used_ratio", "Share of the KV cache that running requests hold")
KV_CACHED = _gauge("cold_kv_cached_ratio", "Share of the KV cache that is kept for reuse alone")
KV_EVICTIONS = _counter("cold_kv_evictions_total", "Blocks kept for reuse that had to make way")
REUSED_TOKENS = _counter(
    "cold_reused_tokens_total", "Tokens of prompts that expert or base did not compute again"
)
ADAPTERS = _gauge("cold_adapters_loaded", "Adapters in the models")
ADAPTER_LOADS = _counter("cold_adapter_loads_total", "Adapters loaded while the models run")
ADAPTER_EVICTIONS = _counter("cold_adapter_evictions_total", "Adapters that made way for others")
LINES_DROPPED = _counter(
    "cold_log_lines_dropped_total", "Lines of the log that nobody took in time"
)
RESTARTS = _gauge("cold_restarts", "Times that cold-server has restarted the models")

FAMILIES = (
    *(REQUESTS, ERRORS, PROMPT_TOKENS, OUTPUT_TOKENS, CONTRASTED, CONTESTED, CHANGED),
    *(STEPS, STEP_SECONDS, TTFT, ITL, QUEUE, LATENCY, ADAPTER_LOADS, ADAPTER_EVICTIONS),
    *(LINES_DROPPED, KV_EVICTIONS, REUSED_TOKENS),
    *(RUNNING, WAITING, MAX_SEQUENCES, KV_BLOCKS, KV_USED, KV_CACHED, ADAPTERS, RESTARTS),
)


@dataclass(frozen=True, slots=True)
class Changes:
    """What there is to publish: counters' increments, gauges' values, histograms' observations."""

    counts: dict[tuple[Family, Labels], float] = field(default_factory=lambda: defaultdict(float))
    gauges: dict[Family, float] = field(default_factory=dict)
    observations: dict[Family, list[float]] = field(default_factory=lambda: defaultdict(list))


class Metrics:
    """Collects values until they are published; safe for threads."""

    def __init__(self) -> None:
        self._changes = Changes()
        self._lock = threading.Lock()

    def add(self, family: Family, *labels: str, value: float = 1) -> None:
        """Increments a counter."""
        with self._lock:
            self._changes.counts[family, labels] += value

    def set(self, family: Family, value: float) -> None:
        """Sets a gauge."""
        with self._lock:
            self._changes.gauges[family] = value

    def observe(self, family: Family, value: float) -> None:
        """Adds an observation to a histogram."""
        with self._lock:
            self._changes.observations[family].append(value)

    def take(self) -> Changes:
        """Everything since the last call."""
        with self._lock:
            taken, self._changes = self._changes, Changes()
        return taken
