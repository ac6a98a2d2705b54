"""The clients: what a program uses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ._grpc import AsyncGrpcTransport, GrpcTransport
from ._http import AsyncHttpTransport, HttpTransport
from ._stream import AsyncStream, Stream
from ._transport import Access, AsyncTransport, Transport, scheme_and_target
from ._types import Health, Model, Request, Result

DEFAULT_URL = "grpc://127.0.0.1:8001"
DEFAULT_TIMEOUT_S = 120.0


class _Limits:
    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._closed = False

    def _limit_s(self, timeout_s: float | None) -> float:
        if self._closed:
            raise RuntimeError("the client is closed")
        return self._timeout_s if timeout_s is None else timeout_s


class Client(_Limits):
    """Talks to a CoLD server; safe to share between threads.

    Args:
        url: `grpc://host:port` or `http://host:port`; `grpcs://` and `https://` with TLS.
        timeout_s: seconds that a call may take, unless the call says otherwise. Over HTTP a server
            that falls silent is given up to this long from its last byte.
        headers: sent with every request, `{"Authorization": "Bearer ..."}` for one.
        ca_file: PEM file of the authorities to trust; None takes the usual ones.
        transport: carries the requests instead of one made from `url`; the client owns it.

    All methods raise errors of `ColdClientError`. Close the client, or use it in a `with`, to end
    its connections and with them the requests that are still running.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
        ca_file: str | Path | None = None,
        transport: Transport | None = None,
    ) -> None:
        super().__init__(timeout_s)
        self._transport = transport or _transport(url, Access(headers or {}, ca_file))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections."""
        self._closed = True
        self._transport.close()

    def generate(self, request: Request | str, *, timeout_s: float | None = None) -> Result:
        """The whole answer; a plain string is a `text_input`.

        Raises:
            InvalidRequest: the server refused an input; `field` names it.
            AdapterNotFound: `lora_name` is not served.
            ServerUnavailable: no connection, a full queue, or a server that is shutting down.
            RequestTimeout: `timeout_s` passed; the request is cancelled on the server.
            RequestCancelled, ServerError, ProtocolError: see there.
        """
        with self._stream(request, stream=False, timeout_s=timeout_s) as pieces:
            for _ in pieces:
                pass
            return pieces.result()

    def stream(self, request: Request | str, *, timeout_s: float | None = None) -> Stream:
        """The answer piece by piece. Iterating raises what `generate` raises."""
        return self._stream(request, stream=True, timeout_s=timeout_s)

    def health(self, *, timeout_s: float | None = None) -> Health:
        """What the server says about itself. Raises ServerUnavailable, AccessDenied."""
        return self._transport.health(timeout_s=self._limit_s(timeout_s))

    def models(self, *, timeout_s: float | None = None) -> list[Model]:
        """What the server serves, with adapters and limits for the model `cold`."""
        return self._transport.models(timeout_s=self._limit_s(timeout_s))

    def _stream(self, request: Request | str, *, stream: bool, timeout_s: float | None) -> Stream:
        limit_s = self._limit_s(timeout_s)
        return Stream(self._transport.pieces(_request(request), stream=stream, timeout_s=limit_s))


class AsyncClient(_Limits):
    """Like `Client`, for asyncio; use it within one event loop."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
        ca_file: str | Path | None = None,
        transport: AsyncTransport | None = None,
    ) -> None:
        super().__init__(timeout_s)
        self._transport = transport or _async_transport(url, Access(headers or {}, ca_file))

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all connections."""
        self._closed = True
        await self._transport.close()

    async def generate(self, request: Request | str, *, timeout_s: float | None = None) -> Result:
        """The whole answer; a plain string is a `text_input`. Raises what `Client.generate` does.

        Cancelling the task cancels the request on the server.
        """
        async with self._stream(request, stream=False, timeout_s=timeout_s) as pieces:
            async for _ in pieces:
                pass
            return pieces.result()

    def stream(self, request: Request | str, *, timeout_s: float | None = None) -> AsyncStream:
        """The answer piece by piece. Use it in an `async with`: an asynchronous iterator that is
        only left stays open until it is collected.
        """
        return self._stream(request, stream=True, timeout_s=timeout_s)

    async def health(self, *, timeout_s: float | None = None) -> Health:
        """What the server says about itself. Raises ServerUnavailable, AccessDenied."""
        return await self._transport.health(timeout_s=self._limit_s(timeout_s))

    async def models(self, *, timeout_s: float | None = None) -> list[Model]:
        """What the server serves, with adapters and limits for the model `cold`."""
        return await self._transport.models(timeout_s=self._limit_s(timeout_s))

    def _stream(
        self, request: Request | str, *, stream: bool, timeout_s: float | None
    ) -> AsyncStream:
        pieces = self._transport.pieces(
            _request(request), stream=stream, timeout_s=self._limit_s(timeout_s)
        )
        return AsyncStream(pieces)


def _request(request: Request | str) -> Request:
    return Request(text_input=request) if isinstance(request, str) else request


def _transport(url: str, access: Access) -> Transport:
    scheme, target = scheme_and_target(url)
    if scheme in ("grpc", "grpcs"):
        return GrpcTransport(target, tls=scheme == "grpcs", access=access)
    return HttpTransport(f"{scheme}://{target}", access=access)


def _async_transport(url: str, access: Access) -> AsyncTransport:
    scheme, target = scheme_and_target(url)
    if scheme in ("grpc", "grpcs"):
        return AsyncGrpcTransport(target, tls=scheme == "grpcs", access=access)
    return AsyncHttpTransport(f"{scheme}://{target}", access=access)
