"""The gateway's side of a connection: uvicorn's, with a limit on how many and how slow they are."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import h11
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from .._exceptions import ServerUnavailable
from .errors import ApiError, from_client, from_timeout
from .limits import Limits

_GRACE_S = 5.0  # for the application to answer first
_REFUSAL_S = 1.0  # for a client to read that it is refused
# Where all connections are taken, one gives way over which a request has not come for so long.
_PATIENCE_S = 2.0


class GuardedProtocol(H11Protocol):
    """One connection. It is closed if a request takes too long to come, or too many are open.

    So clients that hold connections and send nothing keep no others out.
    """

    limits: Limits
    refused: set[GuardedProtocol]

    _timer: asyncio.TimerHandle | None = None
    _phase: object = None
    _phase_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        transport = cast(asyncio.Transport, transport)
        if len(self.connections) < self.limits.connections or self._make_room():
            super().connection_made(transport)
            self._watch()
            return
        self.transport = transport
        if len(self.refused) >= self.limits.connections:
            transport.abort()
            return
        # It is let send its request first: with that unread, closing would take the answer away.
        self.refused.add(self)
        self._timer = self.loop.call_later(_REFUSAL_S, self._refuse)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self in self.refused:
            self._refuse()
        else:
            super().data_received(data)
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._stop()
        if self in self.refused:
            self.refused.discard(self)
        elif self in self.connections:
            super().connection_lost(exc)

    def _watch(self) -> None:
        """Gives the client time for the part of a request that it has to send now."""
        phase = self.conn.their_state
        if phase is self._phase:
            return
        self._stop()
        self._phase, self._phase_s = phase, self.loop.time()
        if phase is h11.IDLE:
            self._timer = self.loop.call_later(self.limits.header_timeout_s, self._give_up)
        elif phase is h11.SEND_BODY:
            limit_s = self.limits.body_timeout_s + _GRACE_S
            self._timer = self.loop.call_later(limit_s, self._give_up)

    def _give_up(self) -> None:
        waited_s = self.loop.time() - self._phase_s
        answering = self._phase is h11.SEND_BODY and self.cycle.response_started
        if not answering and (self._phase is h11.SEND_BODY or self.conn.trailing_data[0]):
            part = "body" if self._phase is h11.SEND_BODY else "headers"
            error = from_timeout(f"{part}: not complete after {waited_s:.0f} s")
            self.transport.write(_response(error))
        self._stop()
        self._phase = "closing"
        self.transport.close()

    def _make_room(self) -> bool:
        """Whether another connection gives way."""
        others = [
            other
            for other in self.connections
            if isinstance(other, GuardedProtocol) and other._phase in (h11.IDLE, h11.SEND_BODY)
        ]
        slowest = min(others, key=lambda other: other._phase_s, default=None)
        if slowest is None or self.loop.time() - slowest._phase_s < _PATIENCE_S:
            return False
        slowest._give_up()
        return True

    def _refuse(self) -> None:
        """Answers once; what comes then is not looked at."""
        if self.transport.is_closing() or self._phase == "refused":
            return
        self._stop()
        self._phase = "refused"
        error = from_client(
            ServerUnavailable("too many connections are open; try again in about 1 s")
        )
        self.transport.write(_response(error))
        self._timer = self.loop.call_later(_REFUSAL_S, self.transport.close)

    def _stop(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None


def guarded(limits: Limits) -> type[asyncio.Protocol]:
    """The protocol for one gateway's connections."""
    return type("Guarded", (GuardedProtocol,), {"limits": limits, "refused": set[Any]()})


def _response(error: ApiError) -> bytes:
    """A whole HTTP response, where there is no request that uvicorn would answer."""
    response: JSONResponse = error.response()
    lines = [f"HTTP/1.1 {error.status} {error.reason}".encode(), b"Connection: close"]
    lines += [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(response.body)])
