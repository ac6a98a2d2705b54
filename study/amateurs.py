"""Which amateur for which job: chooses on dev items, then judges on test items.

    PYTHONPATH=examples python -m study.amateurs --task last_word --adapter equations=DIR

On dev every amateur is tried with every alpha and beta, and greedy with other strengths of the
adapter; on test the best point of each amateur, the best strength, and greedy. One JSON file for
each in --out. Without --adapter it is the base alone: expert and amateur are the base, with
different prompts. Ctrl-C keeps what is finished; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# Everything needed is on this machine; set before transformers is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from cold_eval.decodings import GREEDY, Decoding, grid, scaled
from cold_eval.errors import EvaluationError
from cold_eval.evaluate import Runner, evaluate
from cold_eval.in_process import InProcess
from cold_eval.items import Task, load_task
from cold_eval.report import by_decoding
from cold_eval.results import Journal

BASE_MODEL = Path("~/.cache/cold-server/SmolLM2-135M-Instruct")
ALPHAS, BETAS = (0.1, 0.3), (0.5, 1.0, 2.0)
SCALES = (0.5, 1.25, 1.5, 2.0)
SCORERS = {"last_word": "first_word"}
MAX_TOKENS = {"last_word": 6}
AMATEURS = {"last_word": ("base", "last-8", "last-8@base", "last-1")}
OF_THE_BASE = "base"  # the expert without an adapter


def points_of(task: str, adapter: str) -> list[Decoding]:
    """What is tried on dev, but greedy."""
    if adapter != OF_THE_BASE:
        return [*scaled(SCALES), *grid(ALPHAS, BETAS, AMATEURS[task])]
    amateurs = [one for one in AMATEURS[task] if "@" not in one and one != "base"]
    return [_of_base(point) for point in grid(ALPHAS, BETAS, amateurs)]


def greedy_of(adapter: str) -> Decoding:
    """What all are compared with."""
    return _of_base(GREEDY) if adapter == OF_THE_BASE else GREEDY


def _of_base(point: Decoding) -> Decoding:
    return replace(point, lora_scale=0.0)


def chosen(points: Sequence[Decoding], right: dict[str, str]) -> list[Decoding]:
    """The best on dev of each amateur and of the strengths; of equals the mildest, the first."""
    groups: dict[str, list[Decoding]] = {}
    for point in points:
        groups.setdefault(point.amateur if point.kind == "cold" else "", []).append(point)
    return [max(group, key=lambda point: right[point.name].count("1")) for group in groups.values()]


def judge(
    task: Task, runner: Runner, decodings: Sequence[Decoding], journal: Path
) -> dict[str, str]:
    """Which items each decoding answers rightly: a 1 or a 0 for each, in their order."""
    kept = Journal(journal, {"task": task.describe(), "decodings": [d.name for d in decodings]})
    try:
        evaluate(lambda: runner, [task], decodings, kept, lambda text: print(text, flush=True))
        found = by_decoding(kept.results, task.name)
    finally:
        kept.close()
    return {
        decoding.name: "".join(str(int(found[decoding.name][item.id].score)) for item in task.items)
        for decoding in decodings
    }


def run(args: argparse.Namespace) -> None:
    name, _, path = args.adapter.partition("=")
    base: Path = args.base_model.expanduser()
    runner = InProcess(
        base, Path(path), dtype=args.dtype, max_context=args.max_context, max_sequences=16
    )
    points, greedy = points_of(args.task, name), greedy_of(name)
    right: dict[str, str] = {}
    for split in ("dev", "test"):
        task = load_task(
            args.task,
            args.data / args.task / f"{split}.jsonl",
            SCORERS[args.task],
            max_tokens=MAX_TOKENS[args.task],
            limit=args.items,
        )
        if split == "test":
            points = chosen(points, right)
        label = f"{args.task}-{base.name}-{name}-{split}"
        right = judge(task, runner, [greedy, *points], args.work / f"{label}.jsonl")
        record: dict[str, Any] = {
            "task": args.task,
            "base": base.name,
            "adapter": name,
            "split": split,
            "dtype": args.dtype,
            "right": right,
        }
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / f"{label}.json").write_text(json.dumps(record) + "\n")
        for decoding, bits in right.items():
            print(f"{label}: {decoding}: {bits.count('1') / len(bits):.1%}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--task", choices=AMATEURS, required=True)
    add("--base-model", type=Path, default=BASE_MODEL)
    add(
        "--adapter",
        default=f"{OF_THE_BASE}=examples/adapters/equations",
        metavar="NAME=DIR",
        help=f"the expert's; {OF_THE_BASE}=DIR: none, whatever is there",
    )
    add("--data", type=Path, default=Path("study/work/data"))
    add("--work", type=Path, default=Path("study/work/amateurs"), help="folder of the answers")
    add("--out", type=Path, default=Path("study/results/amateurs"))
    add("--items", type=int, metavar="N", help="of each split, the first; default: all")
    add("--dtype", default="bfloat16")
    add("--max-context", type=int, default=512)
    try:
        run(parser.parse_args())
    except EvaluationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
