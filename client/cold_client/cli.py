"""The command `cold`."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.live import Live

from ._client import DEFAULT_TIMEOUT_S, DEFAULT_URL, Client
from ._compare import Comparison, beta_of
from ._exceptions import (
    AccessDenied,
    AdapterNotFound,
    ColdClientError,
    InvalidRequest,
    RequestTimeout,
    ServerUnavailable,
)
from ._transport import Transport
from ._types import DecodingName, Model, Request, Result, Stopping

_EXIT_CODES = """\
exit codes:
  0    ok
  1    the server failed, or what it sent was not understood
  2    bad usage, or the server refused the request
  3    the server cannot be reached or is not ready
  4    the time was up
  130  interrupted; the request is cancelled on the server
"""
_KINDS: dict[str, type] = {"BYTES": str, "FP32": float, "INT32": int, "UINT64": int}  # of options


def main(argv: Sequence[str] | None = None, *, transport: Transport | None = None) -> int:
    """Runs the command and returns its exit code; `transport` replaces the one of `--url`."""
    arguments = _parser().parse_args(argv)
    try:
        with Client(
            arguments.url,
            timeout_s=arguments.timeout_s,
            headers=dict(arguments.header),
            ca_file=arguments.ca_file,
            transport=transport,
        ) as client:
            code: int = arguments.run(client, arguments)
            sys.stdout.flush()
            return code
    except ColdClientError as error:
        sys.stdout.flush()
        sys.stderr.write(f"cold: {error}\n")
        return _exit_code(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has left; without this the interpreter complains as it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _exit_code(error: ColdClientError) -> int:
    if isinstance(error, (AccessDenied, InvalidRequest, AdapterNotFound)):
        return 2
    if isinstance(error, ServerUnavailable):
        return 3
    return 4 if isinstance(error, RequestTimeout) else 1


def _generate(client: Client, arguments: argparse.Namespace) -> int:
    request = _request(arguments)
    if arguments.no_stream:
        result = client.generate(request)
        if not arguments.json:
            sys.stdout.write(result.text)
    else:
        with client.stream(request) as pieces:
            for piece in pieces:
                if not arguments.json:
                    sys.stdout.write(piece.text)
                    sys.stdout.flush()
            result = pieces.result()
    sys.stdout.write(_json(_result(result)) if arguments.json else "\n")
    return 0


def _compare(client: Client, arguments: argparse.Namespace) -> int:
    request = _request(arguments)
    comparison = Comparison()
    console = Console()
    if console.is_terminal and not arguments.json:
        with Live(get_renderable=comparison.table, console=console, refresh_per_second=10):
            comparison.run(client, request)
    else:
        comparison.run(client, request)
    if arguments.html:
        html = comparison.page(request, beta_of(client, request))
        try:
            arguments.html.write_text(html, encoding="utf-8")
        except OSError as error:
            sys.stderr.write(f"cold: {arguments.html}: {error.strerror}\n")
            return 2
    if console.is_terminal and not arguments.json:
        return 0
    results = {decoding: _result(result) for decoding, result in comparison.results.items()}
    sys.stdout.write(_json(results) if arguments.json else comparison.plain() + "\n")
    return 0


def _models(client: Client, arguments: argparse.Namespace) -> int:
    models = client.models()
    if arguments.json:
        sys.stdout.write(_json([asdict(model) for model in models]))
    else:
        sys.stdout.writelines(f"{line}\n" for model in models for line in _model_lines(model))
    return 0


def _health(client: Client, arguments: argparse.Namespace) -> int:
    health = asdict(client.health())
    if arguments.json:
        sys.stdout.write(_json(health))
    else:
        sys.stdout.writelines(
            f"{name}: {'yes' if value else 'no'}\n" for name, value in health.items()
        )
    return 0 if all(health.values()) else 3


def _model_lines(model: Model) -> list[str]:
    lines = [" ".join(filter(None, (model.name, model.version, model.state, model.reason)))]
    if model.adapters:
        named = (
            f"{name} (default)" if name == model.default_adapter else name
            for name in model.adapters
        )
        lines.append(f"  adapters: {', '.join(named)}")
        for name, values in model.adapter_defaults.items():
            given = ", ".join(f"{field} {_shown(value)}" for field, value in values.items())
            lines.append(f"  defaults of {name}: {given}")
    if model.adapters_dir:
        lines.append("  and those in the server's folder")
    if model.base_model:
        lines.append(f"  base model: {model.base_model}")
    if model.max_context:
        lines.append(f"  max context: {model.max_context} tokens")
    return lines


def _shown(default: Any) -> str:
    """A default of an adapter: a text, a number or, of the amateur, several."""
    return json.dumps(default) if isinstance(default, dict) else str(default)


def _request(arguments: argparse.Namespace) -> Request:
    given = vars(arguments)
    values = {field.name: given[field.name] for field in fields(Request) if field.name in given}
    if arguments.mix:
        values["lora_names"], values["lora_scales"] = map(list, zip(*arguments.mix, strict=True))
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    if not arguments.chat:
        return Request(text_input=prompt, **values)
    amateur = values.pop("amateur_text_input", None)
    if amateur is not None:
        values["amateur_messages"] = _chat(amateur)
    return Request(messages=_chat(prompt), **values)


def _chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _result(result: Result) -> dict[str, Any]:
    derived = ("ms_per_token", "num_contested", "num_changed")
    return {**asdict(result), **{name: getattr(result, name) for name in derived}}


def _json(value: Any) -> str:
    return json.dumps(_finite(value), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """The value with null for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="cold", description=__doc__, epilog=_EXIT_CODES, formatter_class=shape
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("generate", _generate, "generate text; with --json one document, at the end"),
        ("compare", _compare, "base, expert and CoLD side by side, CoLD's changes highlighted"),
        ("models", _models, "models, adapters and limits of the server"),
        ("health", _health, "whether the server and the model cold are ready"),
    ):
        command = commands.add_parser(
            name, help=text, description=text, epilog=_EXIT_CODES, formatter_class=shape
        )
        command.set_defaults(run=run)
        command.add_argument(
            "--url", default=DEFAULT_URL, help="grpc[s]:// or http[s]://; default: %(default)s"
        )
        command.add_argument("--ca-file", metavar="FILE", help="authorities to trust, PEM")
        command.add_argument(
            "--header",
            type=_header,
            action="append",
            default=[],
            metavar="NAME:VALUE",
            help="sent with every request; may be repeated",
        )
        command.add_argument("--timeout-s", type=float, default=DEFAULT_TIMEOUT_S, metavar="S")
        command.add_argument("--json", action="store_true", help="print one JSON document")
        if run in (_generate, _compare):
            _add_request(command)
        if run is _generate:
            _add_generate(command)
        if run is _compare:
            command.add_argument("--html", type=Path, metavar="FILE", help="write a page as well")
    return parser


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (name and colon):
        raise argparse.ArgumentTypeError(f"must be NAME:VALUE, got {text!r}")
    return name, value.strip()


def _part(text: str) -> tuple[str, float]:
    name, colon, strength = text.partition(":")
    try:
        return name, float(strength) if colon else 1.0
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be NAME or NAME:NUMBER, got {text!r}") from None


def _add_request(command: argparse.ArgumentParser) -> None:
    command.add_argument("prompt", metavar="PROMPT", help="the prompt; - reads standard input")
    command.add_argument("--chat", action="store_true", help="send prompts as a user's messages")
    command.add_argument("--adapter", dest="lora_name", metavar="NAME")
    mix = "an adapter and its strength, of several at once; may be given up to 4 times"
    command.add_argument("--mix", type=_part, action="append", metavar="NAME[:N]", help=mix)
    for one in fields(Request):
        if one.metadata["option"]:
            command.add_argument(
                f"--{one.name.replace('_', '-')}",
                type=_KINDS[one.metadata["datatype"]],
                metavar="TEXT" if one.metadata["datatype"] == "BYTES" else "N",
                help=one.metadata["option"],
            )
    for name, dest in (("stop", "stop_words"), ("bad-word", "bad_words")):
        command.add_argument(
            f"--{name}", dest=dest, action="append", metavar="TEXT", help="may be given many times"
        )
    command.add_argument("--ignore-eos", action="store_const", const=True)


def _add_generate(command: argparse.ArgumentParser) -> None:
    command.add_argument("--decoding", choices=get_args(DecodingName))
    command.add_argument("--beam-width", type=int, metavar="N", help="from 2, with beams")
    command.add_argument(
        "--length-penalty", type=float, metavar="N", help="above 0 prefers long answers, with beams"
    )
    command.add_argument("--early-stopping", choices=get_args(Stopping), help="with beams")
    command.add_argument("--no-stream", action="store_true", help="print all text at the end")
    for name, dest, value, text in (
        ("--echo", "exclude_input_in_output", False, "print the prompt before the output"),
        ("--log-probs", "return_log_probs", True, "add log-probabilities to --json"),
        ("--contrast", "return_contrast", True, "add the contrast of each token to --json"),
    ):
        command.add_argument(name, dest=dest, action="store_const", const=value, help=text)
