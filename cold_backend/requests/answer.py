"""What a client gets: pieces of an answer, and where they go."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from cold_backend.errors import ColdError
from cold_backend.requests.token import Token


class FinishReason(enum.Enum):
    """Why a sequence ended."""

    STOP = "stop"  # end of sequence, or a stop word
    LENGTH = "length"  # max_tokens
    CANCELLED = "cancelled"  # the client went away


@dataclass(frozen=True, slots=True)
class Piece:
    """What one response carries: text and tokens since the last one."""

    text: str
    tokens: tuple[Token, ...]
    finish_reason: FinishReason | None


class Sink(Protocol):
    """Where a sequence's pieces go. Exactly one final piece or failure ends it."""

    def send(self, piece: Piece) -> None:
        """Sends a piece; one with a finish reason is final."""
        ...

    def fail(self, error: ColdError) -> None:
        """Ends the request with an error."""
        ...

    def is_cancelled(self) -> bool:
        """Whether the client no longer wants the answer."""
        ...
