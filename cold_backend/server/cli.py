"""The `cold-server` command."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cold_backend import __version__
from cold_backend.config import (
    DEVICES,
    DTYPES,
    EXECUTIONS,
    LOG_FORMATS,
    Settings,
    read_settings_file,
    settings_from,
)
from cold_backend.errors import ConfigError
from cold_backend.server.process import Endpoints, ServerProcess
from cold_backend.server.supervisor import Supervisor
from cold_backend.telemetry.logs import hold_standard_files, say

_ENDPOINTS = tuple(field.name for field in dataclasses.fields(Endpoints))
_TIMEOUTS = {
    "drain": "see below; default: 30",
    "start": "longest time to load the models; default: 1800",
    "accept": "a server that hangs so long taking in a request is restarted; default: 20",
    "step": "likewise one that hangs in a step; default: 300",
}
_EPILOG = """\
Options override the file. It holds the same settings with underscores:

  base_model = "models/SmolLM2-135M-Instruct"
  max_sequences = 32
  http_port = 8000
  [adapters]
  equations = "adapters/equations"

What follows a bare -- goes to tritonserver as it is, TLS options for instance.
SIGTERM and SIGHUP let running requests end, within the drain timeout; Ctrl-C ends them at once,
after SIGTERM as well. A server of which a process dies or hangs is restarted.
Exit code: 0 after Ctrl-C, SIGTERM or SIGHUP, 1 if the server cannot start, 2 for bad usage.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the server until Ctrl-C or SIGTERM; returns the exit code."""
    hold_standard_files()
    arguments, extra = _split(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(arguments)
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


def _adapter(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"must be NAME=DIR, got {text!r}")
    return name, path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cold-server",
        description="Serves a base model and LoRA adapters with contrastive decoding (CoLD).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--base-model", metavar="DIR", help="Hugging Face causal language model, safetensors")
    add(
        "--adapter",
        type=_adapter,
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="PEFT LoRA adapter and the name requests use for it; may be repeated",
    )
    add(
        "--adapters-dir",
        metavar="DIR",
        help="folder of further adapters, a directory each, read when a request names one",
    )
    add(
        "--max-adapters",
        type=int,
        metavar="N",
        help="of those, how many stay in memory; default: as many as requests run",
    )
    add("--max-lora-rank", type=int, metavar="N", help="of those; default: 16")
    add("--default-adapter", metavar="NAME", help="default: the first adapter")
    add("--config", type=Path, metavar="FILE.toml", help="settings from a file, see below")
    add("--host", metavar="ADDRESS", help="default: 127.0.0.1")
    for kind, port in (("http", 8000), ("grpc", 8001), ("metrics", 8002)):
        add(f"--{kind}-port", type=int, metavar="PORT", help=f"default: {port}")
    add("--device", choices=DEVICES, help="default: auto, an NPU, else a GPU, else the CPU")
    add("--dtype", choices=DTYPES, help="default: auto, float32 on a CPU, else bfloat16")
    add("--execution", choices=EXECUTIONS, help="default: auto, fused on one device")
    add("--max-sequences", type=int, metavar="N", help="requests that run at once; default: 16")
    add(
        "--max-context",
        type=int,
        metavar="N",
        help="tokens of prompt and output; default: the model's limit, or what there is memory for",
    )
    add(
        "--kv-cache-bytes",
        type=int,
        metavar="N",
        help="memory for keys and values; default: 0, a share of what is free after loading",
    )
    add(
        "--no-prefix-reuse",
        dest="prefix_reuse",
        action="store_const",
        const=False,
        help="compute every prompt anew, also where another one began like it",
    )
    add("--max-step-tokens", type=int, metavar="N", help="tokens of one step; default: 256")
    add(
        "--max-prompt-bytes",
        type=int,
        metavar="N",
        help="larger prompts are refused unread; default: 16 for each token of the context",
    )
    add("--max-queue", type=int, metavar="N", help="requests that may wait; default: 256")
    add("--max-wait-s", type=float, metavar="S", help="longest wait before it runs; default: 30")
    for name, meaning in _TIMEOUTS.items():
        add(f"--{name}-timeout-s", type=float, metavar="S", help=meaning)
    add(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads; of each language model in an ensemble",
    )
    add("--kernels", metavar="NAME", help="implementation of the ops; default: auto")
    add("--log-format", choices=LOG_FORMATS, help="default: text")
    add(
        "--log-prompts",
        action="store_const",
        const=True,
        help="write prompts into the log; default: no",
    )
    add(
        "--trace-url",
        metavar="URL",
        help="send OpenTelemetry traces to a collector's OTLP endpoint",
    )
    add(
        "--trace-every",
        type=int,
        metavar="N",
        help="0 traces only requests that carry a traceparent header; default: 1, every request",
    )
    add("--verbose", action="store_true", help="show tritonserver's own log")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
