"""Everything that this package raises on purpose, and what each status turns into.

ColdClientError
├── InvalidRequest      the request is malformed; `field` names the input, if known
├── AdapterNotFound     no adapter of that name is served
├── ServerUnavailable   refused or lost connection, full queue, shutting down, model not loaded
├── AccessDenied        the server, or a proxy before it, wants other credentials
├── RequestTimeout      `timeout_s`, or the request's own `deadline_s`, passed
├── RequestCancelled    the request was cancelled before it ended
├── ServerError         the server failed; the details are in its log
└── ProtocolError       the answer is not what docs/protocol.md describes, or was cut off
"""

# ruff: noqa: N818 - like httpx, names say what happened; the base class says that it is an error

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

import grpc
import httpx

from ._types import Request


class ColdClientError(Exception):
    """Base of all errors here; `str(error)` is meant for people."""


class InvalidRequest(ColdClientError):
    """The request is malformed.

    Attributes:
        field: the input at fault, as in docs/protocol.md; None if the server did not say.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class AdapterNotFound(ColdClientError):
    """No adapter of that name is served.

    Attributes:
        field: the input that has it, as in docs/protocol.md; None if the server did not say.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ServerUnavailable(ColdClientError):
    """The server cannot be reached, is gone, or takes no more work now; trying later may help."""


class AccessDenied(ColdClientError):
    """The server, or a proxy before it, wants other credentials."""


class RequestTimeout(ColdClientError):
    """The request did not end within `timeout_s`."""


class RequestCancelled(ColdClientError):
    """The request was cancelled before it ended."""


class ServerError(ColdClientError):
    """The server failed; the details are in its log."""


class ProtocolError(ColdClientError):
    """The answer is not understood, or was cut off before its end."""


_FROM_GRPC: dict[str, type[ColdClientError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "NOT_FOUND": AdapterNotFound,
    "UNAVAILABLE": ServerUnavailable,
    "RESOURCE_EXHAUSTED": ServerUnavailable,
    "DEADLINE_EXCEEDED": RequestTimeout,
    "CANCELLED": RequestCancelled,
    "UNAUTHENTICATED": AccessDenied,
    "PERMISSION_DENIED": AccessDenied,
    "UNIMPLEMENTED": ProtocolError,
}
_FROM_HTTP: dict[int, type[ColdClientError]] = {
    400: InvalidRequest,
    401: AccessDenied,
    403: AccessDenied,
    404: AdapterNotFound,
    408: RequestTimeout,
    429: ServerUnavailable,
    499: RequestCancelled,
    502: ServerUnavailable,
    503: ServerUnavailable,
    504: RequestTimeout,
}
_FIELDS = frozenset(field.name for field in fields(Request)) | {"stream"}
_FIELD = re.compile(r"([a-z_]+): ")
# How the server ends the text of an error: neither of its protocols carries a status all the time.
_CODE = re.compile(
    r" \[(invalid_argument|not_found|unavailable|deadline_exceeded|cancelled|internal)\]$"
)
# What the libraries say when a connection, or one stream of it, ends too early, or a proxy has lost
# the server's. gRPC has other statuses than UNAVAILABLE for some of it.
_CLOSED = re.compile("RST_STREAM|END_STREAM|^(peer closed|Server disconnected) ")
# What tritonserver says of itself, with a status that means something else.
_SAID: tuple[tuple[re.Pattern[str], type[ColdClientError]], ...] = (
    (_CLOSED, ServerUnavailable),
    (re.compile("unknown model"), ServerUnavailable),
    (re.compile("is restricted, expecting header"), AccessDenied),
)


def from_grpc(code: str, message: str) -> ColdClientError:
    """The error for a gRPC status code's name; codes without an entry are ServerError."""
    return _error(_FROM_GRPC.get(code, ServerError), message)


def from_http(status: int, message: str) -> ColdClientError:
    """The error for an HTTP status; statuses without an entry are ServerError."""
    return _error(_FROM_HTTP.get(status, ServerError), message)


def from_message(message: str) -> ColdClientError:
    """The error for a message in an answer or a stream, where there is no status."""
    return _error(ServerError if _field(message) is None else InvalidRequest, message)


@contextmanager
def grpc_errors() -> Iterator[None]:
    """Turns what grpc raises into errors of this package."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_grpc(error.code().name, error.details() or "") from error


@contextmanager
def httpx_errors() -> Iterator[None]:
    """Turns what httpx raises into errors of this package."""
    try:
        yield
    except (httpx.ConnectTimeout, httpx.NetworkError) as error:
        raise ServerUnavailable(str(error)) from error
    except httpx.TimeoutException as error:
        raise RequestTimeout(f"no answer in time: {error}") from error
    except httpx.RemoteProtocolError as error:
        kind = ServerUnavailable if _CLOSED.search(str(error)) else ProtocolError
        raise kind(str(error)) from error
    except httpx.HTTPError as error:
        raise ProtocolError(str(error)) from error


def _error(kind: type[ColdClientError], message: str) -> ColdClientError:
    """The error of a kind, unless the message ends with the server's own code for it."""
    code = _CODE.search(message)
    if code:
        kind = _FROM_GRPC.get(code[1].upper(), ServerError)
        message = message[: code.start()]
    message = message or "no details"
    if not code:
        kind = next((other for text, other in _SAID if text.search(message)), kind)
    if kind in (InvalidRequest, AdapterNotFound):
        return kind(message, field=_field(message))
    return kind(message)


def _field(message: str) -> str | None:
    match = _FIELD.match(message)
    return match[1] if match and match[1] in _FIELDS else None
