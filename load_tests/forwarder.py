"""A TCP forwarder on loopback whose connections can be cut, in place of a network that fails."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")
_NO_LINGER = struct.pack("ii", 1, 0)  # closing then sends a reset instead of what is left


class Forwarder:
    """Passes what comes to one port on to another, until it is closed.

    Args:
        port: where clients connect.
        target: where the server listens.
    """

    def __init__(self, port: int, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._await(asyncio.start_server(self._connect, "127.0.0.1", port))

    def cut(self) -> int:
        """Resets all connections, on both sides; returns how many there were."""
        return self._await(self._cut())

    def close(self) -> None:
        """Cuts all connections and listens no more."""
        self._loop.call_soon_threadsafe(self._server.close)
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _await(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _cut(self) -> int:
        writers = [*self._writers]
        for writer in writers:
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            writer.transport.abort()
        return len(writers) // 2

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()  # no server, as when a machine is down
            return
        self._writers |= {writer, upstream[1]}
        await asyncio.gather(self._pass(reader, upstream[1]), self._pass(upstream[0], writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # the other direction ends as well
        finally:
            self._writers.discard(writer)
            writer.close()
