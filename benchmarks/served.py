"""The server's arms: a real server, spoken to over gRPC."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from benchmarks.measure import Generate, Generated
from benchmarks.naive import ALPHA, BETA
from cold_backend.config import Settings
from cold_backend.server.process import Endpoints, ServerProcess, wait_until
from cold_client import AsyncClient, Request

_START_LIMIT_S = 300
_REQUEST_LIMIT_S = 600


@contextmanager
def running_server(settings: Settings) -> Iterator[Served]:
    """Starts a server on free ports and stops it at the end.

    Raises:
        RuntimeError: it did not get ready.
    """
    http, grpc, metrics = _free_ports(3)
    endpoints = Endpoints(http_port=http, grpc_port=grpc, metrics_port=metrics)
    limit_s = time.monotonic() + _START_LIMIT_S
    with ServerProcess(settings, endpoints) as server:

        def stopped(seconds: float) -> bool:
            time.sleep(seconds)
            return server.exit_code is not None or time.monotonic() > limit_s

        if not wait_until(lambda: server.is_ready, stopped=stopped):
            raise RuntimeError("the server did not get ready; its log is above")
        client = AsyncClient(f"grpc://127.0.0.1:{grpc}", timeout_s=_REQUEST_LIMIT_S)
        # One thread for all streams leaves the cores to the server.
        with asyncio.Runner() as runner:
            yield Served(client, runner)
            runner.run(client.close())


@dataclass(frozen=True, slots=True)
class Served:
    """A running server's client and the loop that it belongs to."""

    client: AsyncClient
    runner: asyncio.Runner


def served(server: Served, decoding: Literal["cold", "greedy", "base"]) -> Generate:
    """All prompts at once, one stream each."""

    async def one(prompt: list[int], tokens: int) -> Generated:
        request = Request(
            input_ids=prompt,
            decoding=decoding,
            alpha=ALPHA,
            beta=BETA,
            max_tokens=tokens,
            ignore_eos=True,
        )
        times_s: list[float] = []
        token_ids: list[int] = []
        begun = time.perf_counter()
        async with server.client.stream(request) as pieces:
            async for piece in pieces:
                # The last response may carry a finish reason and no token.
                if piece.token_ids:
                    times_s.append(time.perf_counter())
                    token_ids += piece.token_ids
        return Generated(token_ids, times_s[0] - begun, times_s[-1] - begun)

    def generate(prompts: Sequence[list[int]], tokens: int) -> list[Generated]:
        async def all_of_them() -> list[Generated]:
            return await asyncio.gather(*(one(prompt, tokens) for prompt in prompts))

        return server.runner.run(all_of_them())

    return generate


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]
    finally:
        for probe in sockets:
            probe.close()
