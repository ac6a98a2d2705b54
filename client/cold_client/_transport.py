"""What a client needs of a transport. Give your own as `transport=` to test or to wrap one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from ._exceptions import InvalidRequest
from ._types import Health, Model, Piece, Request

_PORTS = {"grpc": 8001, "grpcs": 443, "http": 8000, "https": 443}


@dataclass(frozen=True, slots=True)
class Access:
    """What a server, or a proxy before it, asks of a client.

    Attributes:
        headers: sent with every request; gRPC's metadata.
        ca_file: PEM file of the authorities to trust; None takes the usual ones.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    ca_file: str | Path | None = None

    def ca_bytes(self) -> bytes | None:
        """What is in `ca_file`. Raises InvalidRequest."""
        if self.ca_file is None:
            return None
        try:
            return Path(self.ca_file).read_bytes()
        except OSError as error:
            message = f"ca_file: {self.ca_file}: {error.strerror}"
            raise InvalidRequest(message, field="ca_file") from error


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
        f"url: grpc://, grpcs://, http:// or https:// and host:port, not {url!r}", field="url"
    )
