"""What the process of a model and `cold-server` tell each other, from its start to its end.

`cold-server` writes the places of the files between them into the models' parameters.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from cold_backend.config import Settings, load_settings
from cold_backend.errors import ConfigError
from cold_backend.serving.collection import collect_from_now_on
from cold_backend.serving.pulse import Pulse
from cold_backend.telemetry.logs import set_up_log
from cold_backend.telemetry.tracing import set_up_tracing

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def starting(args: dict[str, str]) -> Iterator[Settings]:
    """Around the loading of a model, with its settings: sets up log and tracing.

    `args` are those of `initialize`. What cannot be served is told to `cold-server` as well.

    Raises:
        ConfigError: the settings are unreadable.
    """
    settings = load_settings(Path(_parameter(args, "settings")))
    set_up_log(args["model_name"], settings.log_format)
    set_up_tracing(settings.trace_url)
    try:
        yield settings
    except ConfigError as error:
        Path(_parameter(args, "problem")).write_text(str(error), encoding="utf-8")
        raise
    collect_from_now_on()


def restarts(args: dict[str, str]) -> int:
    """How often `cold-server` has restarted the models."""
    return int(_parameter(args, "restarts"))


def pulse(args: dict[str, str]) -> Pulse:
    """What tells `cold-server` that `cold` lives."""
    return Pulse(Path(_parameter(args, "pulse")))


def when_server_stops(
    args: dict[str, str], drain: Callable[[], None], stop: Callable[[], None]
) -> None:
    """Calls `drain` and `stop`, on a thread of its own, when `cold-server` wants them.

    tritonserver itself would first wait for the very streams that have to be ended. So
    `cold-server` keeps a named pipe open: a byte in it asks to drain, its end to stop.
    """
    path = Path(_parameter(args, "lifeline"))

    def watch() -> None:
        with path.open("rb", buffering=0) as pipe:
            while pipe.read(1):
                drain()
        stop()

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


@contextlib.contextmanager
def vital() -> Iterator[None]:
    """Around what no request ends without: should it raise, the process ends with it.

    `cold-server` notices that, and starts the models anew.
    """
    try:
        yield
    except BaseException:
        _log.critical("the engine has ended; so does its process", exc_info=True)
        logging.shutdown()
        os._exit(1)


def say_stopped(args: dict[str, str]) -> None:
    """Tells `cold-server`, by removing the pipe, that every request has had its last response."""
    Path(_parameter(args, "lifeline")).unlink(missing_ok=True)


def _parameter(args: dict[str, str], name: str) -> str:
    value: str = json.loads(args["model_config"])["parameters"][name]["string_value"]
    return value
