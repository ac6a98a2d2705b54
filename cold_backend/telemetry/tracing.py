"""Spans of OpenTelemetry: a request from acceptance to its end, and the steps that it took part in.

tritonserver's own span of `cold` ends when `execute` returns, long before the answer does, and its
trace must not be used after that: tritonserver 2.51 crashes. So what follows hangs below it by its
W3C trace context alone, which also goes along with a step to the models of an ensemble.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cold_backend.contract import STEP_MODEL, Step
from cold_backend.errors import ColdError
from cold_backend.requests.answer import FinishReason
from cold_backend.requests.sequence import Sequence, TraceHeaders

_EXPORT_TIMEOUT_S = 2.0  # a server that stops waits for it

_w3c = TraceContextTextMapPropagator()
_tracer = trace.get_tracer(__name__)


def set_up_tracing(url: str) -> None:
    """Has this process send its spans to a collector, over HTTP as OTLP; nowhere if empty.

    OpenTelemetry's own environment variables say the rest, OTEL_SERVICE_NAME for one.
    """
    if not url:
        return
    # Imported late: it takes a while, and most servers are not traced.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(url, timeout=_EXPORT_TIMEOUT_S))
    )
    trace.set_tracer_provider(provider)


def stop_tracing() -> None:
    """Sends what has not been sent yet."""
    provider: Any = trace.get_tracer_provider()
    if hasattr(provider, "shutdown"):  # it has not where nothing is traced
        provider.shutdown()


def current_headers() -> dict[str, str]:
    """What makes a span elsewhere a child of the current one here."""
    headers: dict[str, str] = {}
    _w3c.inject(headers)
    return headers


def trace_id(headers: TraceHeaders) -> str | None:
    """The trace's id, for the log; None where nothing is traced."""
    _, _, rest = headers.get("traceparent", "").partition("-")
    return rest.partition("-")[0] or None


@contextmanager
def child_span(name: str, headers: TraceHeaders) -> Iterator[None]:
    """A span around what is done for somebody else; it fails if that raises."""
    if not headers:
        yield
        return
    with _tracer.start_as_current_span(name, _w3c.extract(headers)):
        yield


class RequestSpans:
    """The spans of the requests that are traced."""

    def __init__(self) -> None:
        self._spans: dict[Sequence, trace.Span] = {}  # in the order of admission
        # Sequences have monotonic times, spans have times since 1970.
        self._epoch_s = time.time() - time.monotonic()

    def refused(self, error: ColdError, headers: TraceHeaders) -> None:
        """A request was not accepted."""
        if headers:
            span = _tracer.start_span("generation", _w3c.extract(headers))
            _fail(span, error)
            span.end()

    def admitted(self, sequence: Sequence) -> None:
        """A sequence runs."""
        if sequence.trace:
            self._spans[sequence] = self._begin(sequence)

    @contextmanager
    def executing(self, sequences: Iterable[Sequence], step: Step) -> Iterator[None]:
        """A span around a step, for all of whose sequences together it is executed.

        It is a child of the sequence's span that was admitted first, and linked to the others'.
        """
        if not self._spans:
            yield
            return
        inside = set(sequences)
        spans = [span for sequence, span in self._spans.items() if sequence in inside]
        if not spans:
            yield
            return
        with _tracer.start_as_current_span(
            STEP_MODEL,
            trace.set_span_in_context(spans[0]),
            links=[trace.Link(span.get_span_context()) for span in spans[1:]],
            attributes={
                "cold.rows": len(step.rows),
                "cold.choices": len(step.choices),
                "cold.tokens": len(step.tokens),
            },
        ):
            yield

    def ended(
        self,
        sequence: Sequence,
        end: FinishReason | ColdError,
        now_s: float,
        fields: Mapping[str, str | float | None],
    ) -> None:
        """A sequence got its last response; `fields` become attributes of its span."""
        if not sequence.trace:
            return
        span = self._spans.pop(sequence, None) or self._begin(sequence)
        parents = trace.set_span_in_context(span)
        starts = {
            "queue": sequence.accepted_s,
            "prefill": sequence.admitted_s,
            "decode": sequence.first_token_s,
        }
        reached = [(name, start_s) for name, start_s in starts.items() if start_s is not None]
        ends_s = [start_s for _, start_s in reached[1:]] + [now_s]
        for (name, start_s), end_s in zip(reached, ends_s, strict=True):
            part = _tracer.start_span(name, parents, start_time=self._nanoseconds(start_s))
            part.end(self._nanoseconds(end_s))
        span.set_attributes({f"cold.{k}": v for k, v in fields.items() if v is not None})
        if isinstance(end, ColdError):
            _fail(span, end)
        span.end(self._nanoseconds(now_s))

    def _begin(self, sequence: Sequence) -> trace.Span:
        start = self._nanoseconds(sequence.accepted_s)
        return _tracer.start_span("generation", _w3c.extract(sequence.trace), start_time=start)

    def _nanoseconds(self, monotonic_s: float) -> int:
        return int((self._epoch_s + monotonic_s) * 1e9)


def _fail(span: trace.Span, error: ColdError) -> None:
    span.set_status(trace.Status(trace.StatusCode.ERROR, f"{error} [{error.code.value}]"))
