"""An answer as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from pydantic_core import to_json
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from .._exceptions import ColdClientError
from .._stream import AsyncStream
from .._types import Piece
from .answers import Answer
from .errors import from_client

# A reverse proxy that collects events before it passes them on would undo the streaming.
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class EventStream(StreamingResponse):
    """Sends a stream whose first piece has come already, so that a refusal had its own status.

    However the response ends, the stream is closed, which cancels what is left of the request.
    """

    def __init__(self, first: Piece, stream: AsyncStream, answer: Answer) -> None:
        self._stream = stream
        super().__init__(
            _events(first, stream, answer), headers=_HEADERS, media_type="text/event-stream"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._stream.close()


async def _events(first: Piece, stream: AsyncStream, answer: Answer) -> AsyncIterator[bytes]:
    try:
        for chunk in (*answer.opening(), answer.chunk(first)):
            yield _event(chunk)
        async for piece in stream:
            yield _event(answer.chunk(piece))
        for chunk in answer.closing(stream.result()):
            yield _event(chunk)
    except ColdClientError as error:
        yield _event(from_client(error).body())
        return
    yield b"data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> bytes:
    # The server has no log-probability where a model did not run; JSON has no NaN.
    return b"data: " + to_json(body, inf_nan_mode="null") + b"\n\n"
