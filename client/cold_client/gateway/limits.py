"""What clients may take of the gateway."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one gateway.

    Attributes:
        body_bytes: of one body.
        pending_bytes: of all bodies that have come, in part or whole, and are not answered yet;
            what each has up to SMALL_BYTES is not counted.
        body_timeout_s: seconds from the headers of a request to the end of its body.
        header_timeout_s: seconds from a connection's beginning, or from a request's first byte, to
            the end of the headers.
        connections: that are open at the same time.
    """

    body_bytes: int = 16 << 20
    pending_bytes: int = 64 << 20
    body_timeout_s: float = 30.0
    header_timeout_s: float = 10.0
    connections: int = 512

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be above 0, got {getattr(self, name)}")


# A body that is no larger is received whatever others take, which `connections` limits.
SMALL_BYTES = 64 << 10

DEFAULT_LIMITS = Limits()
