"""The `cold-server` command."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cold_backend.config import (
    Settings,
    read_settings_file,
    settings_from,
)
from cold_backend.errors import ConfigError
from cold_backend.server.options import options_parser
from cold_backend.server.process import Endpoints, ServerProcess
from cold_backend.server.supervisor import Supervisor
from cold_backend.telemetry.logs import hold_standard_files, say

_ENDPOINTS = tuple(field.name for field in dataclasses.fields(Endpoints))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the server until Ctrl-C or SIGTERM; returns the exit code."""
    hold_standard_files()
    arguments, extra = _split(sys.argv[1:] if argv is None else argv)
    options = options_parser().parse_args(arguments)
    try:
        settings, endpoints = _configure(options)
        return _serve(settings, endpoints, verbose=options.verbose, extra=extra)
    except ConfigError as error:
        say(f"cold-server: {error}")
        return 1


def _serve(settings: Settings, endpoints: Endpoints, *, verbose: bool, extra: Sequence[str]) -> int:
    def start(restarts: int) -> ServerProcess:
        usable = _without_broken_adapters(settings) if restarts else settings
        return ServerProcess(usable, endpoints, verbose=verbose, extra=extra, restarts=restarts)

    def ready(seconds: float) -> None:
        say(
            f"ready after {seconds:.0f} s on {endpoints.host}: HTTP {endpoints.http_port}, "
            f"gRPC {endpoints.grpc_port}, metrics {endpoints.metrics_port}; Ctrl-C stops"
        )

    def complain(what: str) -> None:
        say(f"cold-server: {what}")

    supervisor = Supervisor(start, ready, complain, settings.start_timeout_s)
    _stop_at_signals(supervisor, settings.drain_timeout_s)
    named = ", ".join(settings.adapter_names)
    folder = f"those in {settings.adapters_dir}" if settings.adapters_dir else ""
    adapters = ", ".join(filter(None, (named, folder))) or "none"
    say(f"loading {settings.base_model} with adapters: {adapters}")
    return 0 if supervisor.run() else 1


def _stop_at_signals(supervisor: Supervisor, drain_timeout_s: float) -> None:
    drain_s = {signal.SIGINT: 0.0, signal.SIGTERM: drain_timeout_s, signal.SIGHUP: drain_timeout_s}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        del drain_s[signal.SIGHUP]  # nohup
    for number in drain_s:
        signal.signal(number, lambda n, _: supervisor.stop(drain_s[signal.Signals(n)]))


def _configure(options: argparse.Namespace) -> tuple[Settings, Endpoints]:
    """Settings and endpoints from the file and the options over it, checked against the model.

    Raises:
        ConfigError: something does not fit.
    """
    values = read_settings_file(options.config) if options.config else {}
    values |= {
        name: value
        for name, value in vars(options).items()
        if value is not None and name not in ("config", "verbose", "adapter")
    }
    values["adapters"] = {**values.get("adapters", {}), **dict(options.adapter)}
    endpoints = _endpoints({name: values.pop(name) for name in _ENDPOINTS if name in values})
    fixed_context = "max_context" in values
    return _checked(_absolute(settings_from(values)), fixed_context=fixed_context), endpoints


def _endpoints(values: dict[str, Any]) -> Endpoints:
    for name, value in values.items():
        wanted = str if name == "host" else int
        if type(value) is not wanted:
            raise ConfigError(f"{name}: must be of type {wanted.__name__}, got {value!r}")
    return Endpoints(**values)


def _checked(settings: Settings, *, fixed_context: bool) -> Settings:
    """Checks what can be checked without loading weights; settles the context."""
    # Imported late: --help and a wrong option should not wait for torch.
    from cold_backend.adapters.adapter import check_fit, load_adapter
    from cold_backend.adapters.defaults import read_defaults
    from cold_backend.adapters.notes import find_notes
    from cold_backend.loading import default_context, load_tokenizer, ops_for, take_device
    from cold_backend.models.checkpoint import check_model, context_limit, load_config

    config = load_config(settings.base_model)
    limit = context_limit(config)
    if fixed_context and settings.max_context > limit:
        raise ConfigError(
            f"max_context: the model allows at most {limit} tokens, got {settings.max_context}"
        )
    if settings.adapters_dir and not Path(settings.adapters_dir).is_dir():
        raise ConfigError(f"adapters_dir: {settings.adapters_dir} is not a directory")
    ops_for(settings, take_device(settings, 0))
    model = check_model(settings.base_model, config)
    if not fixed_context:
        settings = dataclasses.replace(settings, max_context=default_context(settings, model))
    for name, path in settings.adapters.items():
        check_fit(load_adapter(name, path), model)
        read_defaults(Path(path))
        for note in find_notes(name, Path(path), settings.base_model):
            say(f"cold-server: warning: {note}")
    load_tokenizer(settings)
    return settings


def _without_broken_adapters(settings: Settings) -> Settings:
    """What can still be served: an adapter that has been damaged must not keep the others down.

    Raises:
        ConfigError: it is the default adapter; requests that name none must not get another.
    """
    from cold_backend.adapters.adapter import check_fit, load_adapter
    from cold_backend.adapters.defaults import read_defaults
    from cold_backend.models.checkpoint import empty_model, load_config

    model = empty_model(load_config(settings.base_model))
    adapters = dict(settings.adapters)
    for name, path in settings.adapters.items():
        try:
            check_fit(load_adapter(name, path), model)
            read_defaults(Path(path))
        except ConfigError as error:
            say(f"cold-server: restarting without adapter {name}: {error}")
            del adapters[name]
    return dataclasses.replace(settings, adapters=adapters)


def _absolute(settings: Settings) -> Settings:
    """Paths as the model processes, which run elsewhere, can use them."""
    return dataclasses.replace(
        settings,
        base_model=_absolute_path(settings.base_model),
        adapters={n: _absolute_path(p) for n, p in settings.adapters.items()},
        adapters_dir=_absolute_path(settings.adapters_dir) if settings.adapters_dir else "",
    )


def _absolute_path(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our arguments, and tritonserver's behind `--`."""
    argv = list(argv)
    if "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


if __name__ == "__main__":
    sys.exit(main())
