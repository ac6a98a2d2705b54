"""What a connection brings, and whether the client is still there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from .._exceptions import ServerUnavailable
from .limits import SMALL_BYTES, Limits

T = TypeVar("T")


class BodyTimeout(Exception):  # noqa: N818 - like the client's exceptions
    """A body was not complete in time."""


class Bodies:
    """The bodies of all requests in progress, which together have a limit."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pending_bytes = 0

    @asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[bytes]:
        """The request's body, which counts as pending until the end of the block.

        Raises:
            HTTPException: it is too large, which is said as soon as it is known.
            BodyTimeout: it does not come to its end.
            ServerUnavailable: the bodies of all requests are too large.
            ClientDisconnect: the client has gone away.
        """
        limits = self._limits
        length = request.headers.get("content-length", "")
        announced = int(length[:20]) if length.isdecimal() else 0
        if announced > limits.body_bytes:
            raise self._too_large()
        self._check_room(announced - SMALL_BYTES)
        body, counted = bytearray(), 0
        try:
            try:
                async with asyncio.timeout(limits.body_timeout_s):
                    async for chunk in request.stream():
                        if len(body) + len(chunk) > limits.body_bytes:
                            raise self._too_large()
                        more = max(0, len(body) + len(chunk) - SMALL_BYTES) - counted
                        self._check_room(more)
                        self._pending_bytes += more
                        counted += more
                        body += chunk
            except TimeoutError:
                what = f"body: not complete after {limits.body_timeout_s:g} s"
                raise BodyTimeout(what) from None
            yield bytes(body)
        finally:
            self._pending_bytes -= counted

    def _check_room(self, more: int) -> None:
        if more > 0 and self._pending_bytes + more > self._limits.pending_bytes:
            raise ServerUnavailable(
                "body: too many large bodies are being answered; try again in about 1 s"
            )

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"body: at most {self._limits.body_bytes} bytes")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which is cancelled when the client goes away.

    The request's body must have been read. Raises ClientDisconnect, and what the work raises.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
