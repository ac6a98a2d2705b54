"""HTTP transports, sync and asyncio."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncGenerator, Generator, Iterator
from typing import Any

import httpx

from ._exceptions import InvalidRequest, ProtocolError, RequestTimeout, from_http, httpx_errors
from ._models import has_config, with_config
from ._protocol import MODEL, Events, json_error, json_reply, json_request, whole
from ._transport import Access
from ._types import Health, Model, Piece, Request

_INDEX = "/v2/repository/index"
_CONFIG = f"/v2/models/{MODEL}/config"
_READY = {
    "live": "/v2/health/live",
    "ready": "/v2/health/ready",
    "model_ready": f"/v2/models/{MODEL}/ready",
}

_OPEN = Access()


class HttpTransport:
    """Requests over HTTP to `http://host:port`, or through the given httpx transport."""

    def __init__(
        self,
        url: str,
        *,
        access: Access = _OPEN,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(
            base_url=url, headers=access.headers, verify=_verify(access), transport=transport
        )

    def pieces(
        self, request: Request, *, stream: bool, timeout_s: float
    ) -> Generator[Piece, None, None]:
        body = _Body(request, stream=stream, timeout_s=timeout_s)
        with httpx_errors(), self._http.stream(**body.post) as response:
            if response.is_error:
                raise from_http(response.status_code, json_error(response.read()))
            for chunk in response.iter_bytes():
                yield from body.feed(chunk)
        yield from body.end()

    def health(self, *, timeout_s: float) -> Health:
        with httpx_errors():
            return Health(
                **{
                    name: _says_yes(self._http.get(path, timeout=timeout_s))
                    for name, path in _READY.items()
                }
            )

    def models(self, *, timeout_s: float) -> list[Model]:
        with httpx_errors():
            models = _models(self._http.post(_INDEX, json={}, timeout=timeout_s))
            if not has_config(models):
                return models
            return with_config(models, _parameters(self._http.get(_CONFIG, timeout=timeout_s)))

    def close(self) -> None:
        self._http.close()


class AsyncHttpTransport:
    """Like `HttpTransport`, for asyncio."""

    def __init__(
        self,
        url: str,
        *,
        access: Access = _OPEN,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(
            base_url=url, headers=access.headers, verify=_verify(access), transport=transport
        )

    async def pieces(
        self, request: Request, *, stream: bool, timeout_s: float
    ) -> AsyncGenerator[Piece, None]:
        body = _Body(request, stream=stream, timeout_s=timeout_s)
        with httpx_errors():
            async with self._http.stream(**body.post) as response:
                if response.is_error:
                    raise from_http(response.status_code, json_error(await response.aread()))
                async for chunk in response.aiter_bytes():
                    for piece in body.feed(chunk):
                        yield piece
        for piece in body.end():
            yield piece

    async def health(self, *, timeout_s: float) -> Health:
        with httpx_errors():
            return Health(
                **{
                    name: _says_yes(await self._http.get(path, timeout=timeout_s))
                    for name, path in _READY.items()
                }
            )

    async def models(self, *, timeout_s: float) -> list[Model]:
        with httpx_errors():
            models = _models(await self._http.post(_INDEX, json={}, timeout=timeout_s))
            if not has_config(models):
                return models
            reply = await self._http.get(_CONFIG, timeout=timeout_s)
        return with_config(models, _parameters(reply))

    async def close(self) -> None:
        await self._http.aclose()


class _Body:
    """One request and the body of its answer: what sync and asyncio have in common."""

    def __init__(self, request: Request, *, stream: bool, timeout_s: float) -> None:
        self.post: dict[str, Any] = {
            "method": "POST",
            "url": f"/v2/models/{MODEL}/{'generate_stream' if stream else 'generate'}",
            "content": json_request(request, stream=stream),
            "headers": {"content-type": "application/json"},
            "timeout": timeout_s,
        }
        self._events = Events() if stream else None
        # Nothing else tells the end: HTTP has no final response, and a connection may just close.
        self._ended = not request.return_finish_reason
        self._body = b""
        # httpx limits every single read; a stream that trickles has to be stopped here.
        self._deadline_s = time.monotonic() + timeout_s

    def feed(self, chunk: bytes) -> Iterator[Piece]:
        if time.monotonic() > self._deadline_s:
            raise RequestTimeout("the answer did not end in time")
        if self._events is None:
            self._body += chunk
            return
        for event in self._events.feed(chunk):
            piece = json_reply(event)
            self._ended = self._ended or piece.finish_reason is not None
            yield piece

    def end(self) -> Iterator[Piece]:
        if self._events is None:
            yield json_reply(self._body)
        else:
            whole(self._ended and not self._events.rest.strip())


def _verify(access: Access) -> ssl.SSLContext | bool:
    """Whom httpx trusts; true is the usual authorities. Raises InvalidRequest."""
    authorities = access.ca_bytes()
    if authorities is None:
        return True
    try:
        return ssl.create_default_context(cadata=authorities.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        message = f"ca_file: {access.ca_file}: no certificates: {error}"
        raise InvalidRequest(message, field="ca_file") from error


def _says_yes(response: httpx.Response) -> bool:
    """Whether a server is what it was asked. Raises AccessDenied, which tells nothing about it."""
    if response.status_code in (401, 403):
        raise from_http(response.status_code, json_error(response.content))
    return response.is_success


def _models(response: httpx.Response) -> list[Model]:
    try:
        return [
            Model(
                name=entry["name"],
                version=entry.get("version", ""),
                state=entry.get("state", ""),
                reason=entry.get("reason", ""),
            )
            for entry in _json(response)
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise ProtocolError(f"malformed repository index: {error!r}") from error


def _parameters(response: httpx.Response) -> dict[str, str]:
    try:
        parameters = _json(response).get("parameters", {})
        return {name: value.get("string_value", "") for name, value in parameters.items()}
    except AttributeError as error:
        raise ProtocolError(f"malformed configuration: {error!r}") from error


def _json(response: httpx.Response) -> Any:
    if response.is_error:
        raise from_http(response.status_code, json_error(response.content))
    try:
        return response.json()
    except ValueError as error:
        raise ProtocolError("not JSON") from error
