"""The command `cold-openai`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from .._client import DEFAULT_URL, AsyncClient
from .._exceptions import InvalidRequest

_TIMEOUT_S = 600.0  # what OpenAI's own client waits
_DRAIN_S = 30


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the gateway until Ctrl-C or SIGTERM; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        import uvicorn

        from .app import MAX_BODY_BYTES, create_app
    except ModuleNotFoundError as error:
        return _fail(f"{error}; pip install 'cold-client[openai]'")
    try:
        client = AsyncClient(options.server, timeout_s=options.timeout_s)
    except InvalidRequest as error:
        return _fail(f"--server: {error}")
    # uvicorn raises the signal again once it has stopped; stopping when told to is no failure.
    signal.signal(signal.SIGTERM, lambda *_: None)
    uvicorn.run(
        create_app(client, max_body_bytes=options.max_body_bytes or MAX_BODY_BYTES),
        host=options.host,
        port=options.port,
        timeout_graceful_shutdown=_DRAIN_S,
        server_header=False,
    )
    return 0


def _fail(message: str) -> int:
    sys.stderr.write(f"cold-openai: {message}\n")
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cold-openai",
        description="OpenAI's HTTP API over a CoLD server. Keys and TLS are a reverse proxy's.",
    )
    add = parser.add_argument
    add("--server", default=DEFAULT_URL, metavar="URL", help="the CoLD server (%(default)s)")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (%(default)s)")
    add("--port", type=int, default=9000, help="where to listen (%(default)s)")
    add(
        "--timeout-s",
        type=float,
        default=_TIMEOUT_S,
        metavar="S",
        help="most seconds for an answer (%(default)g)",
    )
    add(
        "--max-body-bytes",
        type=int,
        metavar="N",
        help="largest body of a request (16 MiB)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
