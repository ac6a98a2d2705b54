"""Faults of a server's surroundings: its disk, its standard error, /dev/shm, and too large prompts.

Each is done by a call that returns when the fault is over, and raises Broken if what has to hold
meanwhile does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from pathlib import Path

from cold_client import AsyncClient, Client, ColdClientError, InvalidRequest, Request
from load_tests.disk import Disk
from load_tests.server import Server

_SMALL = Request(text_input="Hello", max_tokens=2)
_PATIENCE_S = 30.0
_FLOOD = 200
_FLOOD_BYTES = 120_000
_CHUNK = bytes(1 << 16)


class Broken(Exception):  # noqa: N818
    """What has to hold during a fault did not."""


class Breakage:
    """Breaks what is around a server.

    Args:
        server: that serves other adapters than the one on the disk all the time.
        disk: that adapters whose names begin with `disk` are on.
        adapter: what a new one is a copy of.
        folder: where the server finds adapters.
        url: of the server.
        hold_s: how long a fault is kept up.
    """

    def __init__(
        self, server: Server, disk: Disk, adapter: Path, folder: Path, url: str, hold_s: float
    ) -> None:
        self._server = server
        self._disk = disk
        self._adapter = adapter
        self._folder = folder
        self._url = url
        self._hold_s = hold_s

    def disk(self, state: str) -> None:
        """A new adapter's disk hangs, is slow or fails; who asks for others does not notice."""
        name = f"disk-{state}"
        shutil.copytree(self._adapter, self._folder / name)
        self._disk.become(state)
        try:
            with contextlib.suppress(ColdClientError), Client(self._url) as client:
                client.generate(
                    Request(text_input="Hello", lora_name=name, max_tokens=1),
                    timeout_s=self._hold_s,
                )
            self._others_are_served()
        finally:
            self._disk.become("well")
        give_up_s = time.monotonic() + _PATIENCE_S
        while not self._is_served(name):
            if time.monotonic() > give_up_s:
                raise Broken(f"{name} is not served after its disk is well again")
            time.sleep(0.5)
        shutil.rmtree(self._folder / name)

    def unread_stderr(self) -> None:
        """Nobody reads what the server writes; its pipe is full after a while."""
        self._server.stderr.read(False)
        self._fill_log()
        self._others_are_served()
        self._server.stderr.read(True)

    def closed_stderr(self) -> None:
        """What the server writes goes nowhere from now on."""
        self._server.stderr.close()
        self._fill_log()
        self._others_are_served()

    def full_shared_memory(self) -> None:
        """/dev/shm is full; a prompt that needs more of it is refused without its names."""
        filler = self._server.shared_memory / "filler"
        try:
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(_CHUNK)
            self._others_are_served()
            self._is_refused(40 << 20)
            time.sleep(self._hold_s)
            self._others_are_served()
        finally:
            filler.unlink(missing_ok=True)

    def oversized_prompts(self) -> None:
        """Prompts come by the hundred that are far too long; each is refused."""
        asyncio.run(self._flood())
        self._others_are_served()

    async def _flood(self) -> None:
        request = Request(text_input="word " * (_FLOOD_BYTES // 5), max_tokens=1)
        async with AsyncClient(self._url, timeout_s=_PATIENCE_S) as client:
            ends = await asyncio.gather(
                *(client.generate(request) for _ in range(_FLOOD)), return_exceptions=True
            )
        if wrong := [end for end in ends if not isinstance(end, ColdClientError)]:
            raise Broken(f"{len(wrong)} prompts that are too long were accepted: {wrong[0]!r:.200}")

    def _fill_log(self) -> None:
        """Has the server write more than a pipe holds: a line for every request."""
        with Client(self._url) as client:
            for _ in range(1000):
                with contextlib.suppress(InvalidRequest):
                    client.generate(Request(text_input="", max_tokens=1), timeout_s=_PATIENCE_S)

    def _is_served(self, adapter: str) -> bool:
        try:
            return self._server.serves(adapter)
        except ColdClientError:
            return False

    def _is_refused(self, size: int) -> None:
        with Client(self._url, timeout_s=_PATIENCE_S) as client:
            try:
                client.generate(Request(text_input="x" * size, max_tokens=1))
            except ColdClientError as error:
                if "cold-server-" in str(error):
                    raise Broken(f"an error shows names: {error}") from error
            else:
                raise Broken(f"a prompt of {size} bytes was accepted")

    def _others_are_served(self) -> None:
        with Client(self._url, timeout_s=_PATIENCE_S) as client:
            try:
                client.generate(_SMALL)
            except ColdClientError as error:
                if "try again" not in str(error):
                    raise Broken(f"others are not served: {error}") from error
