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
    """What one response carries.

    Attributes:
        text: since the last one.
        tokens: likewise.
        finish_reason: why it is the last; None if it is not.
        cached_tokens: of the prompt, those that were not computed for this request.
    """

    text: str
    tokens: tuple[Token, ...]
    finish_reason: FinishReason | None
    cached_tokens: int = 0


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
