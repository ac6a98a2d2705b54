"""Options that `cold-eval` and `cold-tune` share, and what follows from them."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cold_eval.amateurs import ALLOWED, BASE, without_marks
from cold_eval.decodings import Decoding
from cold_eval.errors import EvaluationError
from cold_eval.evaluate import Runner
from cold_eval.items import Task, load_task


def add_task_options(parser: argparse.ArgumentParser) -> None:
    """What is asked."""
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="where results go")
    add("--task", action="append", required=True, metavar="NAME=FILE:SCORER", help="many times")
    add("--limit", type=int, metavar="N", help="take only the first items of each task")
    add("--max-tokens", type=int, default=256, metavar="N", help="of an answer; %(default)s")
    add("--stop", action="append", default=[], metavar="TEXT", help="ends an answer; many times")
    add("--alphas", type=float, nargs="+", default=[0.1, 0.3], metavar="A", help="of the grid")
    add("--betas", type=float, nargs="+", default=[0.25, 0.5, 1.0], metavar="B", help="likewise")
    add(
        "--lora-scales",
        type=float,
        nargs="*",
        default=[1.25, 1.5, 2.0],
        metavar="S",
        help="strengths of the adapter that greedy is tried with",
    )
    add(
        "--amateurs",
        nargs="+",
        default=[BASE],
        metavar="A",
        help=f"what contrast is tried with: {ALLOWED}; default: {BASE}",
    )
    add(
        "--beta-rules",
        nargs="+",
        default=["fixed"],
        metavar="R",
        help="fixed, divergence (beta times how far expert and amateur are apart); default: fixed",
    )
    add("--seed", type=int, default=0, metavar="N", help="of whatever is drawn; %(default)s")


def add_model_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """What answers, in this process."""
    add = parser.add_argument
    add("--base-model", type=Path, required=required, metavar="DIR", help="Hugging Face model")
    add("--adapter", type=Path, required=required, metavar="DIR", help="PEFT LoRA adapter")
    add(
        "--amateur-adapter",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="another, for amateurs @NAME; many times",
    )
    add("--dtype", default="auto", metavar="NAME", help="float32, bfloat16 or float16")
    add("--device", default="auto", metavar="NAME", help="cpu, cuda or npu")
    add("--max-context", type=int, default=1024, metavar="N", help="tokens; %(default)s")
    add("--max-sequences", type=int, default=32, metavar="N", help="at once; %(default)s")


def tasks_of(options: argparse.Namespace) -> list[Task]:
    """The tasks that are named, as the expert is asked.

    Raises:
        EvaluationError: one cannot be read, or two have the same name.
    """
    tasks = [_task(text, options) for text in options.task]
    if len({task.name for task in tasks}) < len(tasks):
        raise EvaluationError("task: two have the same name")
    return [without_marks(task, options.amateurs) for task in tasks]


def settings_of(
    options: argparse.Namespace, tasks: Sequence[Task], decodings: Sequence[Decoding]
) -> dict[str, Any]:
    """What results depend on, as JSON has it.

    Raises:
        EvaluationError: model or adapter cannot be read.
    """
    return {
        "model": _model(options),
        "seed": options.seed,
        "tasks": [task.describe() for task in tasks],
        "decodings": [asdict(decoding) for decoding in decodings],
    }


def _model(options: argparse.Namespace) -> dict[str, Any]:
    if getattr(options, "url", None):
        return {"url": options.url, "lora_name": options.lora_name}
    weights = ("adapter_config.json", "adapter_model.safetensors")
    others = {name: fingerprint(path, *weights) for name, path in _others(options).items()}
    return {
        "base_model": fingerprint(options.base_model, "config.json", "model.safetensors"),
        "adapter": fingerprint(options.adapter, *weights),
        **({"amateur_adapters": others} if others else {}),
        "dtype": options.dtype,
        "device": options.device,
    }


def in_process(options: argparse.Namespace) -> Runner:
    """Loads model and adapter.

    Raises:
        EvaluationError: they cannot be used.
    """
    # Imported late: a wrong option should not wait for torch.
    from cold_eval.in_process import InProcess

    return InProcess(
        options.base_model,
        options.adapter,
        amateurs=_others(options),
        dtype=options.dtype,
        device=options.device,
        max_context=options.max_context,
        max_sequences=options.max_sequences,
        seed=options.seed,
    )


def _others(options: argparse.Namespace) -> dict[str, Path]:
    found = {}
    for text in options.amateur_adapter:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise EvaluationError(f"amateur-adapter: must be NAME=DIR, got {text!r}")
        found[name] = Path(path)
    return found


def fingerprint(folder: Path, *files: str) -> dict[str, str]:
    """A folder's name and the hash of what its files hold.

    Raises:
        EvaluationError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for name in files:
        try:
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise EvaluationError(f"{folder / name}: {error.strerror}") from error
    return {"name": folder.name, "sha256": digest.hexdigest()}


def _task(text: str, options: argparse.Namespace) -> Task:
    name, equals, rest = text.partition("=")
    path, colon, scorer = rest.rpartition(":")
    if not (name and equals and path and colon):
        raise EvaluationError(f"task: must be NAME=FILE:SCORER, got {text!r}")
    return load_task(
        name,
        Path(path),
        scorer,
        max_tokens=options.max_tokens,
        stop=tuple(options.stop),
        limit=options.limit,
    )
