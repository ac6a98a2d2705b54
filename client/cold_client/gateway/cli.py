"""The command `cold-openai`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields

from .._client import DEFAULT_URL, AsyncClient
from .._exceptions import InvalidRequest
from .limits import Limits

_TIMEOUT_S = 600.0  # what OpenAI's own client waits
_DRAIN_S = 30


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the gateway until Ctrl-C or SIGTERM; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        import uvicorn

        from .app import create_app
        from .guard import guarded
        from .log import hold_standard_files, log_config
    except ModuleNotFoundError as error:
        return _fail(f"{error}; pip install 'cold-client[openai]'")
    try:
        client = AsyncClient(options.server, timeout_s=options.timeout_s)
    except InvalidRequest as error:
        return _fail(f"--server: {error}")
    limits = _limits(options)
    if isinstance(limits, str):
        return _fail(limits)
    hold_standard_files()
    # uvicorn raises the signal again once it has stopped; stopping when told to is no failure.
    signal.signal(signal.SIGTERM, lambda *_: None)
    uvicorn.run(
        create_app(client, limits),
        host=options.host,
        port=options.port,
        timeout_graceful_shutdown=_DRAIN_S,
        server_header=False,
        http=guarded(limits),
        ws="none",
        log_config=log_config(),
    )
    return 0


def _limits(options: argparse.Namespace) -> Limits | str:
    """The limits, or what is wrong with them."""
    given = {name.removeprefix("max_"): value for name, value in vars(options).items()}
    names = {field.name for field in fields(Limits)}
    try:
        return Limits(**{name: given[name] for name in names if given.get(name) is not None})
    except ValueError as error:
        return f"limit {error}"


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
    add("--max-body-bytes", type=int, metavar="N", help="largest body of a request (16 MiB)")
    add(
        "--max-pending-bytes",
        type=int,
        metavar="N",
        help="bodies of all requests that are not answered yet, large ones alone (64 MiB)",
    )
    add("--max-connections", type=int, metavar="N", help="open at the same time (512)")
    add(
        "--header-timeout-s",
        type=float,
        metavar="S",
        help="most seconds for the headers of a request to come (10)",
    )
    add(
        "--body-timeout-s",
        type=float,
        metavar="S",
        help="most seconds for the body of a request to come (30)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
