"""Every error that the server reports on purpose.

ColdError
├── InvalidRequestError     INVALID_ARGUMENT   the request is malformed; names the field
│   └── UnknownAdapterError     NOT_FOUND      no adapter of that name is served
├── OverloadedError         UNAVAILABLE        the queue is full, or the wait too long
├── DeadlineError           DEADLINE_EXCEEDED  the request's deadline has passed
├── ShuttingDownError       UNAVAILABLE        the server is stopping
├── RequestCancelledError   CANCELLED          the client went away before the request started
├── StepError               INTERNAL           a decoding step failed; details are in the log
└── ConfigError             INVALID_ARGUMENT   the settings, the model or an adapter cannot be used
    └── AdapterUnreadableError  UNAVAILABLE    an adapter cannot be read now, but may be later

`serving/tritonserver.py` maps the codes to tritonserver's; nothing else does.
"""

from __future__ import annotations

import enum
import math
from typing import ClassVar


class ErrorCode(enum.Enum):
    """What kind of error it is, as the client sees it."""

    INVALID_ARGUMENT = "invalid_argument"
    NOT_FOUND = "not_found"
    UNAVAILABLE = "unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    INTERNAL = "internal"


class ColdError(Exception):
    """Base of all errors here. `str(error)` is safe to show to a client.

    It may quote what a file or a template says: half of a surrogate pair, which could not be sent,
    is written as an escape.
    """

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL

    def __init__(self, text: str = "") -> None:
        super().__init__(text.encode("utf-8", "backslashreplace").decode())


class InvalidRequestError(ColdError):
    """A field of a request is outside what is allowed.

    Args:
        field: name of the input, as in docs/protocol.md.
        message: what is allowed, and what came.
    """

    code = ErrorCode.INVALID_ARGUMENT

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message

    def at(self, field: str) -> InvalidRequestError:
        """The same error of another field."""
        return type(self)(field, self.message)


class UnknownAdapterError(InvalidRequestError):
    """The named adapter is not served."""

    code = ErrorCode.NOT_FOUND


class OverloadedError(ColdError):
    """The request could not be served in time.

    Args:
        reason: why.
        retry_s: after how many seconds trying again may help, about.
    """

    code = ErrorCode.UNAVAILABLE

    def __init__(self, reason: str, retry_s: float) -> None:
        super().__init__(f"{reason}; try again in about {max(1, math.ceil(retry_s))} s")


class DeadlineError(ColdError):
    """The answer was not complete in the time that the client gave it."""

    code = ErrorCode.DEADLINE_EXCEEDED

    def __init__(self, deadline_s: float) -> None:
        super().__init__(f"deadline_s: the answer was not complete after {deadline_s:g} s")


class ShuttingDownError(ColdError):
    """The server takes no more work."""

    code = ErrorCode.UNAVAILABLE

    def __init__(self) -> None:
        super().__init__("the server is shutting down")


class RequestCancelledError(ColdError):
    """The client cancelled the request while it was still waiting."""

    code = ErrorCode.CANCELLED

    def __init__(self) -> None:
        super().__init__("the request was cancelled")


class StepError(ColdError):
    """A decoding step failed."""

    code = ErrorCode.INTERNAL


class ConfigError(ColdError):
    """The settings, the model or an adapter cannot be used."""

    code = ErrorCode.INVALID_ARGUMENT


class AdapterUnreadableError(ConfigError):
    """An adapter could not be read for a reason that may pass.

    Args:
        name: of the adapter.
        reason: why.
    """

    code = ErrorCode.UNAVAILABLE

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"adapter {name} {reason}; try again")
        self.reason = reason
