"""Trains and decodes everything that docs/study.md shows, then writes the page.

    PYTHONPATH=examples python -m study.run --threads 2

What is done already is not done again; Ctrl-C keeps what is finished.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from study import tasks

BASES = Path("~/.cache/cold-server").expanduser()
SMALL = "SmolLM2-135M-Instruct"
LARGE = "Qwen2.5-Coder-0.5B-Instruct"
DATA = Path("study/work/data")
ADAPTERS = Path("study/work/adapters")


@dataclass(frozen=True)
class Cell:
    """A base and a task: one training run, and what is decoded with its adapters.

    Attributes:
        steps: the adapters are those after so many steps; a small and a large change to the base.
        rules: of `study.search`, decoded on dev.
        dev_items: how many of them.
        bf16: instead of float32; on a CPU with AMX several times faster.
        tested: by steps, the rules that dev has chosen and the test items judge.
    """

    base: str
    task: str
    steps: tuple[int, ...]
    rules: str
    dev_items: int
    bf16: bool = True
    tested: tuple[tuple[int, str], ...] = ()


PLAN = (
    Cell(SMALL, "chain", (8, 16, 30, 120), "every", 160, bf16=False),
    Cell(SMALL, "base_nine", (30, 120), "every", 300),
    Cell(SMALL, "equation", (30, 120), "core", 300),
    Cell(SMALL, "commonsense", (30, 120), "core", 300),
    Cell(LARGE, "chain", (4, 64), "core", 160),
    Cell(LARGE, "base_nine", (16, 64), "core", 160),
    Cell(LARGE, "equation", (8, 64), "core", 160),
    Cell(LARGE, "commonsense", (8, 64), "core", 300),
)


def python(module: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=True)


def train(cell: Cell, threads: int) -> Path:
    """Returns the folder of the adapters."""
    folder = ADAPTERS / f"{cell.task}-{cell.base}-r16-lr0.0003-s0"
    if not all((folder / f"{step:04}").exists() for step in cell.steps):
        begun = ["--resume"] if (folder / "checkpoint.safetensors").exists() else []
        options = ("--task", cell.task, "--base-model", BASES / cell.base, "--threads", threads)
        python("study.train", *options, "--snapshots", *cell.steps, *begun)
    return folder


def decode(cell: Cell, adapter: Path, rules: str, threads: int, *split: object) -> None:
    options = ("--task", cell.task, "--base-model", BASES / cell.base, "--adapter", adapter)
    kind = ["--bf16"] if cell.bf16 else []
    python("study.search", *options, "--rules", rules, "--threads", threads, *kind, *split)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--task", choices=tasks.TASKS, action="append", help="default: all of them")
    parser.add_argument("--base", choices=(SMALL, LARGE), action="append", help="default: both")
    args = parser.parse_args()
    try:
        if not all((DATA / task).exists() for task in tasks.TASKS):
            python("study.tasks")
        for cell in PLAN:
            if cell.task in (args.task or tasks.TASKS) and cell.base in (args.base or cell.base):
                python("study.prepare_base", BASES / LARGE)
                folder = train(cell, args.threads)
                for step in cell.steps:
                    limit = ("--items", cell.dev_items)
                    decode(cell, folder / f"{step:04}", cell.rules, args.threads, *limit)
                for step, rules in cell.tested:
                    decode(cell, folder / f"{step:04}", rules, args.threads, "--split", "test")
        python("study.report")
    except (subprocess.CalledProcessError, KeyboardInterrupt):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
