from __future__ import annotations

import grpc
import httpx
import pytest

from cold_client import (
    AccessDenied,
    AdapterNotFound,
    ColdClientError,
    InvalidRequest,
    ProtocolError,
    RequestCancelled,
    RequestTimeout,
    ServerError,
    ServerUnavailable,
)
from cold_client._exceptions import from_grpc, from_http, from_message, httpx_errors

GRPC = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: AdapterNotFound,
    grpc.StatusCode.UNAVAILABLE: ServerUnavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ServerUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: RequestTimeout,
    grpc.StatusCode.CANCELLED: RequestCancelled,
    grpc.StatusCode.UNAUTHENTICATED: AccessDenied,
    grpc.StatusCode.PERMISSION_DENIED: AccessDenied,
    grpc.StatusCode.UNIMPLEMENTED: ProtocolError,
}


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_grpc_codes(code: grpc.StatusCode) -> None:
    error = from_grpc(code.name, "why")
    assert type(error) is GRPC.get(code, ServerError)
    assert str(error) == "why"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (401, AccessDenied),
        (403, AccessDenied),
        (404, AdapterNotFound),
        (408, RequestTimeout),
        (429, ServerUnavailable),
        (499, RequestCancelled),
        (500, ServerError),
        (502, ServerUnavailable),
        (503, ServerUnavailable),
        (504, RequestTimeout),
        (418, ServerError),
    ],
)
def test_http_statuses(status: int, kind: type[ColdClientError]) -> None:
    assert type(from_http(status, "why")) is kind


@pytest.mark.parametrize(
    ("message", "field"),
    [("alpha: too high", "alpha"), ("stream: no", "stream"), ("failed: no", None), ("alpha", None)],
)
def test_the_field_is_taken_from_the_message(message: str, field: str | None) -> None:
    error = from_grpc("INVALID_ARGUMENT", message)
    assert isinstance(error, InvalidRequest)
    assert error.field == field


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("invalid_argument", InvalidRequest),
        ("not_found", AdapterNotFound),
        ("unavailable", ServerUnavailable),
        ("cancelled", RequestCancelled),
        ("internal", ServerError),
    ],
)
def test_the_code_in_the_text_decides(code: str, kind: type[ColdClientError]) -> None:
    for error in (
        from_message(f"alpha: why [{code}]"),
        from_http(500, f"alpha: why [{code}]"),
        from_grpc("UNKNOWN", f"alpha: why [{code}]"),
    ):
        assert type(error) is kind
        assert str(error) == "alpha: why"


def test_other_brackets_are_no_code() -> None:
    error = from_http(400, "expected shape [n]")
    assert isinstance(error, InvalidRequest)
    assert str(error) == "expected shape [n]"


def test_messages_without_a_status() -> None:
    assert isinstance(from_message("seed: no"), InvalidRequest)
    assert isinstance(from_message("failed"), ServerError)
    assert str(from_message("")) == "no details"


def test_a_model_that_is_not_loaded_is_no_adapter() -> None:
    error = from_http(404, "Request for unknown model: 'cold' is not found")
    assert isinstance(error, ServerUnavailable)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("CANCELLED", "Stream removed (RST_STREAM (Received RST_STREAM with error code 8))"),
        ("UNKNOWN", "Stream removed (Data frame with END_STREAM flag received)"),
        ("INTERNAL", "Received RST_STREAM with error code 2"),
    ],
)
def test_a_stream_that_was_cut(code: str, message: str) -> None:
    assert isinstance(from_grpc(code, message), ServerUnavailable)


def test_a_restricted_protocol() -> None:
    message = "This protocol is restricted, expecting header 'triton-grpc-protocol-token'"
    assert isinstance(from_grpc("UNAVAILABLE", message), AccessDenied)


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (httpx.ConnectError("no"), ServerUnavailable),
        (httpx.ConnectTimeout("no"), ServerUnavailable),
        (httpx.ReadError("no"), ServerUnavailable),
        (httpx.ReadTimeout("no"), RequestTimeout),
        (httpx.PoolTimeout("no"), RequestTimeout),
        (httpx.RemoteProtocolError("no"), ProtocolError),
        (httpx.RemoteProtocolError("peer closed connection without"), ServerUnavailable),
        (httpx.RemoteProtocolError("Server disconnected without"), ServerUnavailable),
        (httpx.DecodingError("no"), ProtocolError),
    ],
)
def test_httpx_errors(raised: httpx.HTTPError, kind: type[ColdClientError]) -> None:
    with pytest.raises(kind) as caught, httpx_errors():
        raise raised
    assert caught.value.__cause__ is raised
