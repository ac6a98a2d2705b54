"""The command `cold-eval`."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Everything needed is on this machine; set before transformers and peft are imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from rich.console import Console

from cold_eval.decodings import decodings_of
from cold_eval.errors import EvaluationError
from cold_eval.evaluate import Runner, evaluate
from cold_eval.items import Task, load_task
from cold_eval.report import as_json, report_of, table_of
from cold_eval.results import Journal

_DESCRIPTION = """\
Measures whether contrastive decoding answers better than greedy decoding, on your own tasks.

A task is a JSONL file, an object a line: "id", "prompt" or "messages" (a chat), "answer", and
"choices" for multiple choice, of which "answer" is one or its index. Scorers: exact,
exact_any_case, last_number (GSM8K), sql, rouge_l, choice, choice_per_token.
"""
_EPILOG = """\
The folder of --out holds results.jsonl, report.json and report.html. A run that was interrupted
goes on with the same command.
Exit code: 0 ok, 2 bad usage or input, 130 after Ctrl-C.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return _run(arguments)
    except EvaluationError as error:
        _say(f"cold-eval: {error}")
        return 2
    except KeyboardInterrupt:
        _say("cold-eval: interrupted; the same command goes on from here")
        return 130


def _run(arguments: argparse.Namespace) -> int:
    tasks = [_task(text, arguments) for text in arguments.task]
    if len({task.name for task in tasks}) < len(tasks):
        raise EvaluationError("task: two have the same name")
    decodings = decodings_of(
        arguments.decoding or ["base", "greedy", "cold"],
        alphas=arguments.alphas,
        betas=arguments.betas,
        temperature=arguments.temperature,
    )
    settings: dict[str, Any] = {
        "base_model": _fingerprint(arguments.base_model, "config.json", "model.safetensors"),
        "adapter": _fingerprint(
            arguments.adapter, "adapter_config.json", "adapter_model.safetensors"
        ),
        "dtype": arguments.dtype,
        "device": arguments.device,
        "seed": arguments.seed,
        "tasks": [task.describe() for task in tasks],
        "decodings": [asdict(decoding) for decoding in decodings],
    }
    journal = Journal(arguments.out / "results.jsonl", settings)
    try:
        evaluate(_runner(arguments), tasks, decodings, journal, _say)
    finally:
        journal.close()
    reports = report_of(settings, journal.results)
    console = Console(width=None if sys.stdout.isatty() else 160)
    for report in reports:
        console.print(table_of(report))
    text = json.dumps(as_json(settings, reports), indent=1)
    (arguments.out / "report.json").write_text(text + "\n", encoding="utf-8")
    return 0


def _runner(arguments: argparse.Namespace) -> Runner:
    from cold_eval.in_process import InProcess

    return InProcess(
        arguments.base_model,
        arguments.adapter,
        dtype=arguments.dtype,
        device=arguments.device,
        max_context=arguments.max_context,
        max_sequences=arguments.max_sequences,
        seed=arguments.seed,
    )


def _task(text: str, arguments: argparse.Namespace) -> Task:
    name, equals, rest = text.partition("=")
    path, colon, scorer = rest.rpartition(":")
    if not (name and equals and path and colon):
        raise EvaluationError(f"task: must be NAME=FILE:SCORER, got {text!r}")
    return load_task(
        name,
        Path(path),
        scorer,
        max_tokens=arguments.max_tokens,
        stop=tuple(arguments.stop),
        limit=arguments.limit,
    )


def _fingerprint(folder: Path, *files: str) -> dict[str, str]:
    """A folder's name and the hash of what its files hold."""
    digest = hashlib.sha256()
    for name in files:
        try:
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise EvaluationError(f"{folder / name}: {error.strerror}") from error
    return {"name": folder.name, "sha256": digest.hexdigest()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cold-eval",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="where results go")
    add("--task", action="append", required=True, metavar="NAME=FILE:SCORER", help="many times")
    add("--limit", type=int, metavar="N", help="take only the first items of each task")
    add("--max-tokens", type=int, default=256, metavar="N", help="of an answer; %(default)s")
    add("--stop", action="append", default=[], metavar="TEXT", help="ends an answer; many times")
    add(
        "--decoding",
        action="append",
        metavar="NAME",
        help="base, greedy, cold (the grid), beamN, voteN; many times; default: the first three",
    )
    add("--alphas", type=float, nargs="+", default=[0.1, 0.3], metavar="A", help="of the grid")
    add("--betas", type=float, nargs="+", default=[0.25, 0.5, 1.0], metavar="B", help="likewise")
    add("--temperature", type=float, default=0.7, metavar="T", help="of voteN; %(default)s")
    add("--seed", type=int, default=0, metavar="N", help="of samples and intervals")
    add("--base-model", type=Path, required=True, metavar="DIR", help="Hugging Face model")
    add("--adapter", type=Path, required=True, metavar="DIR", help="PEFT LoRA adapter")
    add("--dtype", default="auto", metavar="NAME", help="float32, bfloat16 or float16")
    add("--device", default="auto", metavar="NAME", help="cpu, cuda or npu")
    add("--max-context", type=int, default=1024, metavar="N", help="tokens; %(default)s")
    add("--max-sequences", type=int, default=32, metavar="N", help="at once; %(default)s")
    return parser


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
