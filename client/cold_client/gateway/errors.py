"""Errors as OpenAI's API has them: a status and `{"error": {message, type, param, code}}`."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from .._exceptions import (
    AdapterNotFound,
    ColdClientError,
    InvalidRequest,
    ProtocolError,
    RequestTimeout,
    ServerUnavailable,
)

_RETRY_S = 5  # where the server does not say
_RETRY = re.compile(r"try again in about (\d+(?:\.\d+)?) s")
_INVALID = "invalid_request_error"
_SERVER = "server_error"
_LONGEST_NAME = 100  # of a field that the body has and the API does not
# Inputs of the server that go by another name here.
_PARAMS = {
    "amateur_input_ids": "amateur",
    "amateur_last_tokens": "amateur",
    "amateur_lora_name": "amateur",
    "amateur_lora_scale": "amateur",
    "amateur_messages": "amateur",
    "amateur_text_input": "amateur",
    "input_ids": "prompt",
    "lora_name": "model",
    "stop_words": "stop",
    "text_input": "prompt",
}


@dataclass(frozen=True, slots=True)
class ApiError:
    """An answer that says no.

    Attributes:
        status: of the HTTP response, unless that has begun.
        param: the field of the body at fault, if one is.
        retry_s: seconds after which trying again may help; None where it does not.
        closes: whether nothing more is read from the connection.
    """

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    retry_s: int | None = None
    closes: bool = False

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        shown = asdict(self)
        return {"error": {name: shown[name] for name in ("message", "type", "param", "code")}}

    @property
    def reason(self) -> str:
        """The status in words."""
        return HTTPStatus(self.status).phrase

    def response(self) -> JSONResponse:
        """The whole HTTP response."""
        headers = {"Connection": "close"} if self.closes else {}
        if self.retry_s is not None:
            headers["Retry-After"] = str(self.retry_s)
        return JSONResponse(self.body(), self.status, headers)


def from_client(error: ColdClientError) -> ApiError:
    """What a failed request to the CoLD server turns into."""
    message = str(error)
    if isinstance(error, InvalidRequest):
        message, param = _renamed(message, error.field)
        return ApiError(400, message, _INVALID, param)
    if isinstance(error, AdapterNotFound):
        message, param = _renamed(message, error.field or "lora_name")
        return ApiError(404, message, _INVALID, param, "model_not_found")
    if isinstance(error, ServerUnavailable):
        return ApiError(503, message, _SERVER, None, "unavailable", _retry_s(message))
    if isinstance(error, RequestTimeout):
        return ApiError(504, message, _SERVER, None, "deadline_exceeded")
    if isinstance(error, ProtocolError):
        return ApiError(502, message, _SERVER, None, "bad_gateway")
    return ApiError(500, message, _SERVER, None, "internal")


def from_validation(error: ValidationError) -> ApiError:
    """What a body that is not as it should be turns into; names the first fault."""
    fault = error.errors(include_url=False)[0]
    where = ".".join(map(str, fault["loc"]))[:_LONGEST_NAME]
    param = str(fault["loc"][0])[:_LONGEST_NAME] if fault["loc"] else None
    if fault["type"] == "extra_forbidden":
        what = "not a field that is supported here"
    elif fault["type"] in ("missing", "json_invalid"):
        what = fault["msg"]
    else:
        what = f"{fault['msg']}, got {_short(fault['input'])}"
    return ApiError(400, f"{where or 'body'}: {what}", _INVALID, param)


def from_http(error: HTTPException) -> ApiError:
    """What an unknown path, a wrong method or a body that is too large turns into."""
    return ApiError(error.status_code, error.detail, _INVALID)


def from_timeout(what: str) -> ApiError:
    """What a request turns into that does not come to its end."""
    return ApiError(408, what, _INVALID, None, "timeout", closes=True)


def _renamed(message: str, field: str | None) -> tuple[str, str | None]:
    """The message and the field under the name that the field has here."""
    if field not in _PARAMS:
        return message, field
    param = _PARAMS[field]
    rest = message.removeprefix(f"{field}: ")
    return (message if rest == message else f"{param}: {rest}"), param


def _retry_s(message: str) -> int:
    told = _RETRY.search(message)
    return math.ceil(float(told[1])) if told else _RETRY_S


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
