"""What a client needs of a transport. Give your own as `transport=` to test or to wrap one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Protocol
from urllib.parse import urlsplit

from ._exceptions import InvalidRequest
from ._types import Health, Model, Piece, Request

_PORTS = {"grpc": 8001, "http": 8000, "https": 443}


class Transport(Protocol):
    """Carries requests. Every method raises errors of `ColdClientError` only."""

    def pieces(
        self, request: Request, *, stream: bool, timeout_s: float
    ) -> Generator[Piece, None, None]:
        """Sends the request when first iterated; closing the generator cancels it."""

    def health(self, *, timeout_s: float) -> Health:
        """What the server says about itself."""

    def models(self, *, timeout_s: float) -> list[Model]:
        """What the server serves."""

    def close(self) -> None:
        """Ends all connections."""


class AsyncTransport(Protocol):
    """Like `Transport`, for asyncio."""

    def pieces(
        self, request: Request, *, stream: bool, timeout_s: float
    ) -> AsyncGenerator[Piece, None]:
        """Sends the request when first iterated; closing the generator cancels it."""

    async def health(self, *, timeout_s: float) -> Health:
        """What the server says about itself."""

    async def models(self, *, timeout_s: float) -> list[Model]:
        """What the server serves."""

    async def close(self) -> None:
        """Ends all connections."""


def scheme_and_target(url: str) -> tuple[str, str]:
    """The scheme and `host:port` of a server's URL. Raises InvalidRequest."""
    try:
        parts = urlsplit(url)
        if parts.scheme in _PORTS and parts.hostname and parts.path in ("", "/"):
            host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
            return parts.scheme, f"{host}:{parts.port or _PORTS[parts.scheme]}"
    except ValueError:  # not a port, or a broken IPv6 address
        pass
    raise InvalidRequest(
        f"url: grpc://host:port, http://host:port or https://host:port, not {url!r}", field="url"
    )
