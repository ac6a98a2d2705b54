"""The command `cold-eval`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# Everything needed is on this machine; set before transformers and peft are imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from rich.console import Console

from cold_eval.decodings import Decoding, decodings_of
from cold_eval.errors import EvaluationError
from cold_eval.evaluate import Runner, evaluate
from cold_eval.html_report import html_report
from cold_eval.items import Task
from cold_eval.options import (
    add_model_options,
    add_task_options,
    in_process,
    settings_of,
    tasks_of,
)
from cold_eval.report import as_json, report_of, table_of
from cold_eval.results import Journal
from cold_eval.tuned import Tuned, read_tuned

_DESCRIPTION = """\
Measures whether contrastive decoding answers better than greedy decoding, on your own tasks: in
this process with --base-model and --adapter, or over a running server with --url.

A task is a JSONL file, an object a line: "id", "prompt" or "messages" (a chat), "answer", and
"choices" for multiple choice, of which "answer" is one or its index. Scorers: exact,
exact_any_case, first_word, last_number (GSM8K), sql, rouge_l, choice, choice_per_token.
"""
_EPILOG = """\
The folder of --out gets results.jsonl, report.json and report.html. A run that was interrupted goes
on with the same command.
Exit code: 0 ok, 2 bad usage or input, 130 after Ctrl-C.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    return guarded("cold-eval", lambda: _run(_parser().parse_args(argv)))


def guarded(command: str, run: Callable[[], int]) -> int:
    """Runs a command; what goes wrong is told in a line."""
    try:
        return run()
    except EvaluationError as error:
        say(f"{command}: {error}")
        return 2
    except KeyboardInterrupt:
        say(f"{command}: interrupted; the same command goes on from here")
        return 130


def say(text: str) -> None:
    """Tells the user; standard output is for results."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _run(options: argparse.Namespace) -> int:
    tasks = tasks_of(options)
    decodings = decodings_of(
        [name for name in options.decoding if name != "tuned"],
        alphas=options.alphas,
        betas=options.betas,
        temperature=options.temperature,
        lora_scales=options.lora_scales,
        amateurs=options.amateurs,
        rules=options.beta_rules,
    )
    if options.adapter:
        decodings += _tuned(options, tasks, read_tuned(options.adapter))
    _check_answerer(options)
    settings = settings_of(options, tasks, decodings)
    journal = Journal(options.out / "results.jsonl", settings)
    try:
        evaluate(lambda: _runner(options), tasks, decodings, journal, say)
    finally:
        journal.close()
    reports = report_of(settings, journal.results)
    console = Console(width=None if sys.stdout.isatty() else 160)
    for report in reports:
        console.print(table_of(report))
    write(options.out / "report.json", json.dumps(as_json(settings, reports), indent=1) + "\n")
    write(options.out / "report.html", html_report(settings, tasks, reports, journal.results))
    return 0


def _tuned(
    options: argparse.Namespace, tasks: Sequence[Task], tuned: Tuned | None
) -> list[Decoding]:
    """The decoding that was tuned, if it is wanted; on other items than it was tuned on."""
    wanted = "tuned" in options.decoding
    if tuned is None:
        if wanted:
            raise EvaluationError(f"decoding: {options.adapter} has no cold.json to take it from")
        return []
    items = [item for task in tasks for item in task.items]
    used = sum(map(tuned.has_seen, items))
    if used and wanted:
        raise EvaluationError(
            f"decoding: tuned was tuned on {used} of these {len(items)} items; "
            "what it gains can only be shown on others"
        )
    if used:
        say(f"cold-eval: {used} of {len(items)} items were used to tune this adapter's cold.json")
    return [tuned.decoding] if wanted else []


def _runner(options: argparse.Namespace) -> Runner:
    if options.url:
        from cold_eval.served import Served

        return Served(options.url, options.lora_name, options.concurrency, options.seed)
    return in_process(options)


def _check_answerer(options: argparse.Namespace) -> None:
    if not options.url and not (options.base_model and options.adapter):
        raise EvaluationError("base-model: --base-model and --adapter are needed, or --url")


def write(path: Path, text: str) -> None:
    """Writes a file and says so.

    Raises:
        EvaluationError: it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise EvaluationError(f"{path}: {error.strerror}") from error
    say(f"wrote {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cold-eval",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_task_options(parser)
    add = parser.add_argument
    add(
        "--decoding",
        nargs="+",
        default=["base", "greedy", "cold"],
        metavar="NAME",
        help="base, greedy, cold (the grid), scaled (greedy with each of --lora-scales), tuned "
        "(what cold.json says), beamN (beam search), voteN (N samples, the commonest answer); "
        "default: the first three",
    )
    add("--temperature", type=float, default=0.7, metavar="T", help="of voteN; %(default)s")
    add_model_options(parser, required=False)
    add("--url", metavar="URL", help="of a server: grpc[s]:// or http[s]://")
    add("--lora-name", metavar="NAME", help="adapter of the server; default: its own")
    add("--concurrency", type=int, default=8, metavar="N", help="requests at once; %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(main())
