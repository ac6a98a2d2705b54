"""A collector of OpenTelemetry traces: takes OTLP over HTTP, as Jaeger and Tempo do."""

from __future__ import annotations

import base64
import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, slots=True)
class Span:
    """One span.

    Attributes:
        trace: its trace id, hexadecimal, as the others.
        parent: a span id; empty at the root of a trace.
        links: span ids.
        start_s, end_s: seconds since 1970.
    """

    service: str
    name: str
    trace: str
    id: str
    parent: str
    links: tuple[str, ...]
    attributes: dict[str, Any]
    start_s: float
    end_s: float
    failed: bool


class Collector:
    """What has been received.

    Args:
        port: of `url`, on loopback.

    Attributes:
        fails: answer with an error instead.
        failures: how often it has.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1/traces"
        self.fails = False
        self.failures = 0
        self._spans: list[Span] = []
        self._lock = threading.Lock()

    def add(self, body: bytes, content_type: str) -> None:
        # tritonserver sends JSON, in which ids are hexadecimal, the models protobuf.
        request = ExportTraceServiceRequest()
        if content_type == "application/json":
            json_format.Parse(body, request, ignore_unknown_fields=True)
            spans = list(_spans(request, lambda text: base64.b64encode(text).decode()))
        else:
            request.ParseFromString(body)
            spans = list(_spans(request, bytes.hex))
        with self._lock:
            self._spans += spans

    def traces(self) -> set[str]:
        """Trace ids."""
        with self._lock:
            return {span.trace for span in self._spans}

    def trace(self, trace: str) -> list[Span]:
        """The spans of a trace."""
        with self._lock:
            return [span for span in self._spans if span.trace == trace]


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            if collector.fails:
                collector.failures += 1
            else:
                collector.add(body, self.headers["Content-Type"])
            self.send_response(503 if collector.fails else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def _spans(
    request: ExportTraceServiceRequest, hexadecimal: Callable[[bytes], str]
) -> Iterator[Span]:
    for group in request.resource_spans:
        resource = _attributes(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield Span(
                    service=resource["service.name"],
                    name=span.name,
                    trace=hexadecimal(span.trace_id),
                    id=hexadecimal(span.span_id),
                    parent=hexadecimal(span.parent_span_id),
                    links=tuple(hexadecimal(link.span_id) for link in span.links),
                    attributes=_attributes(span.attributes),
                    start_s=span.start_time_unix_nano / 1e9,
                    end_s=span.end_time_unix_nano / 1e9,
                    failed=span.status.code == span.status.STATUS_CODE_ERROR,
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    found = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        found[pair.key] = getattr(pair.value, kind) if kind else None
    return found
