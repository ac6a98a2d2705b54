"""Streams of pieces, and the result that they add up to."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Generator, Iterable

from ._types import Piece, Result


class Stream:
    """Iterates over the pieces of one answer; `close()` or leaving the `with` cancels it.

    The request is sent when first iterated. Iterating raises the errors of `Client.stream`.
    """

    def __init__(self, pieces: Generator[Piece, None, None]) -> None:
        self._pieces = pieces
        self._sum = _Sum()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Piece:
        self._sum.start()
        return self._sum.add(next(self._pieces))

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancels the request on the server, if it has not ended."""
        self._pieces.close()

    def result(self) -> Result:
        """What has come so far, as one."""
        return self._sum.result()


class AsyncStream:
    """Like `Stream`, for asyncio."""

    def __init__(self, pieces: AsyncGenerator[Piece, None]) -> None:
        self._pieces = pieces
        self._sum = _Sum()

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> Piece:
        self._sum.start()
        return self._sum.add(await self._pieces.__anext__())

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancels the request on the server, if it has not ended."""
        await self._pieces.aclose()

    def result(self) -> Result:
        """What has come so far, as one."""
        return self._sum.result()


class _Sum:
    """Adds pieces up and takes the time."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._start_s: float | None = None
        self._ttft_s: float | None = None
        self._latency_s = 0.0

    def start(self) -> None:
        if self._start_s is None:
            self._start_s = time.perf_counter()

    def add(self, piece: Piece) -> Piece:
        self._latency_s = time.perf_counter() - (self._start_s or 0)
        if self._ttft_s is None and piece.token_ids:
            self._ttft_s = self._latency_s
        self._pieces.append(piece)
        return piece

    def result(self) -> Result:
        pieces = self._pieces
        reasons = [piece.finish_reason for piece in pieces if piece.finish_reason]
        token_ids = tuple(token for piece in pieces for token in piece.token_ids)
        return Result(
            text="".join(piece.text for piece in pieces),
            token_ids=token_ids,
            finish_reason=reasons[-1] if reasons else None,
            num_input_tokens=_last(piece.num_input_tokens for piece in pieces),
            num_output_tokens=len(token_ids),
            num_cached_tokens=_last(piece.num_cached_tokens for piece in pieces),
            log_probs=tuple(value for piece in pieces for value in piece.log_probs),
            decoding_log_probs=tuple(p for piece in pieces for p in piece.decoding_log_probs),
            alternatives=tuple(best for piece in pieces for best in piece.alternatives),
            contrast=tuple(token for piece in pieces for token in piece.contrast),
            ttft_s=self._latency_s if self._ttft_s is None else self._ttft_s,
            latency_s=self._latency_s,
        )


def _last(counts: Iterable[int | None]) -> int | None:
    """The last one that a piece told."""
    return ([None, *(count for count in counts if count is not None)])[-1]
