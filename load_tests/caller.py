"""Makes calls and says what came of them."""

from __future__ import annotations

import time

from cold_client import (
    AdapterNotFound,
    Client,
    ColdClientError,
    InvalidRequest,
    RequestTimeout,
    Result,
    ServerUnavailable,
)
from load_tests.samples import Sample
from load_tests.workload import Call


class Caller:
    """A client of the server, over gRPC and HTTP.

    Args:
        grpc_url: `grpc://host:port`.
        http_url: `http://host:port`.
        timeout_s: seconds that a request may take.
    """

    def __init__(self, grpc_url: str, http_url: str, timeout_s: float) -> None:
        self._grpc = Client(grpc_url, timeout_s=timeout_s)
        self._http = Client(http_url, timeout_s=timeout_s)

    def close(self) -> None:
        """Ends the connections."""
        self._grpc.close()
        self._http.close()

    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that the server serves."""
        return next(model.adapters for model in self._grpc.models() if model.name == "cold")

    def make(self, call: Call) -> Sample:
        """Makes a call; whatever the server does is a sample, never an exception."""
        start_s, begun_s = time.time(), time.perf_counter()
        try:
            result = self._answer(call)
            kind, message = _judge_answer(call, result)
        except ColdClientError as error:
            result = None
            kind, message = _judge_error(call, error)
        streamed = result is not None and call.protocol != "generate"
        return Sample(
            kind=kind,
            protocol=call.protocol,
            start_s=start_s,
            ttft_ms=1000 * result.ttft_s if streamed and result else None,
            latency_ms=1000 * (time.perf_counter() - begun_s),
            output_tokens=result.num_output_tokens if result else 0,
            message=message,
        )

    def _answer(self, call: Call) -> Result | None:
        """The whole answer; None if the client hung up."""
        client = self._grpc if call.protocol == "grpc" else self._http
        if call.protocol == "generate":
            return client.generate(call.request, timeout_s=call.patience_s)
        with client.stream(call.request, timeout_s=call.patience_s) as stream:
            for _ in stream:
                if call.hangs_up:
                    return None
            return stream.result()


def _judge_answer(call: Call, result: Result | None) -> tuple[str, str]:
    if call.bad_field:
        return "error", f"{call.bad_field}: a bad value was accepted"
    if result is None:
        return "hang_up", ""
    if result.finish_reason not in ("stop", "length"):
        return "error", f"ended with {result.finish_reason}"
    return "ok", ""


def _judge_error(call: Call, error: ColdClientError) -> tuple[str, str]:
    message = f"{type(error).__name__}: {error}"
    expected = isinstance(error, InvalidRequest) and error.field == call.bad_field
    expected |= isinstance(error, AdapterNotFound) and call.bad_field == "lora_name"
    if call.bad_field and expected:
        return "bad_input", message
    if call.patience_s is not None and isinstance(error, RequestTimeout):
        return "gave_up", message
    if call.request.deadline_s and isinstance(error, RequestTimeout):
        return "late", message
    if isinstance(error, ServerUnavailable) and "try again" in str(error):
        return "refused", message
    return "error", message
