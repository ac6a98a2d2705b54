"""Programs that the tests start beside the server: deploy/install-test-tools.sh."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.groups import find

START_TIMEOUT_S = 30


def run(name: str, *arguments: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """What the program prints; the test fails if it fails.

    Args:
        environment: what it gets beside ours.
    """
    done = subprocess.run(
        [find(name), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@contextmanager
def running(
    name: str,
    *arguments: str | Path,
    log: Path,
    ready: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """The program while it runs, from when it is ready; what it prints goes to `log`.

    Args:
        environment: what it gets beside ours.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [find(name), *arguments],
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
        )
    try:
        wait_for(lambda: process.poll() is not None or ready(), f"{name} did not start")
        assert process.poll() is None, f"{name} ended:\n{log.read_text()}"
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], bool], failure: str) -> None:
    """Polls until the condition holds; the test fails if that takes too long."""
    give_up = time.monotonic() + START_TIMEOUT_S
    while not condition():
        assert time.monotonic() < give_up, failure
        time.sleep(0.1)
