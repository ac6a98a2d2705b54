"""What is told of requests and steps: metrics, spans, and one line of the log for every request."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager

from cold_backend.config import Settings
from cold_backend.contract import AdapterChange, Step
from cold_backend.errors import ColdError, ErrorCode
from cold_backend.requests.answer import FinishReason
from cold_backend.requests.request import AMATEUR_KINDS
from cold_backend.requests.sequence import Sequence, TraceHeaders
from cold_backend.requests.token import Token
from cold_backend.telemetry import metrics as m
from cold_backend.telemetry.load import Load, Usage
from cold_backend.telemetry.logs import dropped_lines
from cold_backend.telemetry.metrics import Metrics
from cold_backend.telemetry.tracing import RequestSpans, trace_id
from cold_kernels import Mode

_log = logging.getLogger(__name__)

_MAX_LABELS = 100  # adapters with metrics of their own
_OTHERS = "other adapters"

_ID_LENGTH = 128  # characters of a client's id that the log has


class Telemetry:
    """Records what happens to requests.

    Args:
        settings: names of adapters, limits, what may be logged.
        restarts: how often the models have been restarted.
    """

    def __init__(self, settings: Settings, restarts: int = 0) -> None:
        self.metrics = Metrics()
        self._spans = RequestSpans()
        self._settings = settings
        self._memory = Usage()
        self._labels = {"", *settings.adapter_names}
        # A label's value is known from the start, so that rates over it are right from the start.
        for code in ErrorCode:
            self.metrics.add(m.ERRORS, code.value, value=0)
        for adapter in ("", *settings.adapter_names):
            for family in (m.PROMPT_TOKENS, m.OUTPUT_TOKENS):
                self.metrics.add(family, adapter, value=0)
        for adapter in settings.adapter_names:
            for family in (m.CONTRASTED, m.CONTESTED, m.CHANGED):
                for amateur in AMATEUR_KINDS:
                    self.metrics.add(family, adapter, amateur, value=0)
        self.metrics.set(m.MAX_SEQUENCES, settings.max_sequences)
        self._dropped = dropped_lines()
        for counter in (
            *(m.ADAPTER_LOADS, m.ADAPTER_EVICTIONS, m.LINES_DROPPED),
            *(m.REUSED_TOKENS, m.KV_EVICTIONS),
        ):
            self.metrics.add(counter, value=0)
        self.metrics.set(m.RESTARTS, restarts)

    def refused(self, error: ColdError, request_id: str, trace: TraceHeaders) -> None:
        """A request was not accepted."""
        self.metrics.add(m.ERRORS, error.code.value)
        self._spans.refused(error, trace)
        _log.info("refused", extra={"request": _short(request_id), "code": error.code.value})

    def admitted(self, sequence: Sequence) -> None:
        """A sequence runs."""
        self._spans.admitted(sequence)
        waited_s = _since(sequence, sequence.admitted_s)
        if waited_s is not None:
            self.metrics.observe(m.QUEUE, waited_s)
        self.metrics.add(m.PROMPT_TOKENS, self._label(sequence), value=len(sequence.request.prompt))

    def picked(self, sequence: Sequence, token: Token) -> None:
        """A step picked a token."""
        adapter = self._label(sequence)
        self.metrics.add(m.OUTPUT_TOKENS, adapter)
        ttft_s = _since(sequence, sequence.first_token_s)
        if sequence.output_length == 1 and ttft_s is not None:
            self.metrics.observe(m.TTFT, ttft_s)
        if sequence.request.sampling.mode is Mode.COLD and not sequence.request.continuation:
            labels = adapter, sequence.request.amateur_kind
            self.metrics.add(m.CONTRASTED, *labels)
            self.metrics.add(m.CONTESTED, *labels, value=token.valid_count > 1)
            self.metrics.add(m.CHANGED, *labels, value=token.id != token.expert_token)

    def executing(self, sequences: Iterable[Sequence], step: Step) -> AbstractContextManager[None]:
        """Around the execution of a step."""
        return self._spans.executing(sequences, step)

    def stepped(self, schedule_s: float, execute_s: float, deliver_s: float) -> None:
        """A step is done."""
        self.metrics.add(m.STEPS)
        parts = {"schedule": schedule_s, "execute": execute_s, "deliver": deliver_s}
        for part, seconds in parts.items():
            self.metrics.add(m.STEP_SECONDS, part, value=seconds)

    def adapter_loaded(self, change: AdapterChange) -> None:
        """The models have loaded an adapter."""
        self.metrics.add(m.ADAPTER_LOADS)
        self.metrics.add(m.ADAPTER_EVICTIONS, value=bool(change.evicts))
        _log.info("adapter loaded", extra={"adapter": change.name, "evicts": change.evicts})

    def ended(self, sequence: Sequence, end: FinishReason | ColdError, now_s: float) -> None:
        """A sequence got its last response."""
        failed = isinstance(end, ColdError)
        decoding = sequence.request.decoding
        outcome = "error" if isinstance(end, ColdError) else end.value
        self.metrics.add(m.REQUESTS, self._label(sequence), decoding, outcome)
        if isinstance(end, ColdError):
            self.metrics.add(m.ERRORS, end.code.value)
        latency_s = now_s - sequence.accepted_s
        self.metrics.observe(m.LATENCY, latency_s)
        ttft_s = _since(sequence, sequence.first_token_s)
        if sequence.output_length > 1 and ttft_s is not None and not failed:
            self.metrics.observe(m.ITL, (latency_s - ttft_s) / (sequence.output_length - 1))
        fields: dict[str, str | float | None] = {
            "request": _short(sequence.request_id),
            "adapter": "+".join(name for name, _ in sequence.request.adapters),
            "decoding": decoding,
            "outcome": end.code.value if isinstance(end, ColdError) else end.value,
            "prompt_tokens": len(sequence.request.prompt),
            "output_tokens": sequence.output_length,
            "queue_ms": _milliseconds(_since(sequence, sequence.admitted_s)),
            "ttft_ms": _milliseconds(ttft_s),
            "latency_ms": _milliseconds(latency_s),
        }
        self._spans.ended(sequence, end, now_s, fields)
        fields["trace"] = trace_id(sequence.trace)
        if self._settings.log_prompts:
            fields["prompt"] = sequence.prompt_text
        _log.info("ended", extra=fields)

    def sample(self, load: Load) -> None:
        """Sets the gauges."""
        self.metrics.set(m.RUNNING, load.running)
        self.metrics.set(m.WAITING, load.waiting)
        dropped, self._dropped = self._dropped, dropped_lines()
        self.metrics.add(m.LINES_DROPPED, value=self._dropped - dropped)
        self.metrics.set(m.ADAPTERS, load.adapters)
        self._sample_memory(load.memory)

    def _sample_memory(self, memory: Usage) -> None:
        before, self._memory = self._memory, memory
        self.metrics.set(m.KV_BLOCKS, memory.blocks)
        self.metrics.set(m.KV_USED, memory.held / max(1, memory.blocks))
        self.metrics.set(m.KV_CACHED, memory.kept / max(1, memory.blocks))
        self.metrics.add(m.KV_EVICTIONS, value=memory.evictions - before.evictions)
        self.metrics.add(m.REUSED_TOKENS, value=memory.reused_tokens - before.reused_tokens)

    def _label(self, sequence: Sequence) -> str:
        """The adapter's name, unless there are too many for a time series each."""
        name = sequence.request.adapter
        if name not in self._labels:
            if len(self._labels) >= _MAX_LABELS:
                return _OTHERS
            self._labels.add(name)
        return name


def _short(request_id: str) -> str:
    return request_id if len(request_id) <= _ID_LENGTH else request_id[:_ID_LENGTH] + "..."


def _since(sequence: Sequence, time_s: float | None) -> float | None:
    """Seconds from a request's arrival; None if it has not come so far."""
    return None if time_s is None else time_s - sequence.accepted_s


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
