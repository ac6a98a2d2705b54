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
HALF_AND_ONE = "cold a=0.1 b=0.5;cold a=0.1 b=1"
HALF_AND_TWO = "cold a=0.1 b=0.5;cold a=0.1 b=2"


@dataclass(frozen=True)
class Cell:
    """A base and a task: the adapters, and what is decoded with them.

    Attributes:
        steps: the adapters are those after so many steps; a small and a large change to the base.
        rules: of `study.search`, decoded on dev.
        dev_items: how many of them.
        scale: factor on the adapter's weights.
        other: a task of which an adapter, of as many steps, is averaged with this one's.
        bf16: instead of float32; on a CPU with AMX several times faster.
        tested: rules that dev has chosen and the test items judge, with the adapter of most steps.
    """

    base: str
    task: str
    steps: tuple[int, ...]
    rules: str
    dev_items: int
    scale: float = 1.0
    other: str = ""
    bf16: bool = True
    tested: str = ""


PLAN = (
    Cell(SMALL, "chain", (8, 16, 30, 120), "every", 160, bf16=False),
    Cell(SMALL, "base_nine", (30, 60, 120), "core", 150),
    Cell(SMALL, "commonsense", (30, 120), "core", 200),
    Cell(SMALL, "equation", (30, 120), "core", 150),
    Cell(SMALL, "base_nine", (120,), "core", 150, scale=0.4),
    Cell(SMALL, "base_nine", (120,), "core", 150, scale=0.6, tested="greedy;" + HALF_AND_TWO),
    Cell(SMALL, "base_nine", (120,), "core", 150, scale=0.8),
    Cell(SMALL, "base_nine", (120,), "core", 150, scale=1.5),
    Cell(SMALL, "chain", (120,), "core", 150, scale=0.6, tested="greedy;" + HALF_AND_ONE),
    Cell(SMALL, "base_nine", (120,), "core", 150, other="chain"),
    Cell(SMALL, "chain", (120,), "core", 150, other="base_nine"),
    Cell(LARGE, "base_nine", (16, 32, 64), "core", 100),
    Cell(LARGE, "base_nine", (64,), "core", 100, other="chain", tested="greedy;" + HALF_AND_TWO),
    Cell(LARGE, "chain", (4, 64), "core", 100),
    Cell(LARGE, "commonsense", (8, 64), "core", 200),
    Cell(LARGE, "equation", (8, 64), "core", 100),
)


def python(module: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=True)


def snapshots(task: str, base: str) -> list[int]:
    """What the whole plan needs of one training run, which cannot go back for an earlier one."""
    cells = [cell for cell in PLAN if cell.base == base and task in (cell.task, cell.other)]
    return sorted({step for cell in cells for step in cell.steps})


def train(task: str, base: str, threads: int) -> Path:
    """Returns the folder of the adapters."""
    folder = ADAPTERS / f"{task}-{base}-r16-lr0.0003-s0"
    steps = snapshots(task, base)
    if not all((folder / f"{step:04}").exists() for step in steps):
        begun = ["--resume"] if (folder / "checkpoint.safetensors").exists() else []
        options = ("--task", task, "--base-model", BASES / base, "--threads", threads)
        python("study.train", *options, "--snapshots", *steps, *begun)
    return folder


def averaged(cell: Cell, threads: int) -> Path:
    """Returns the folder of the averages of two tasks' adapters."""
    first, second = (train(task, cell.base, threads) for task in (cell.task, cell.other))
    folder = ADAPTERS / f"{cell.task}+{cell.other}-{cell.base}-r32-lr0.0003-s0"
    for name in (f"{step:04}" for step in cell.steps):
        if not (folder / name).exists():
            base = ("--base-model", BASES / cell.base)
            python("study.average", first / name, second / name, folder / name, *base)
    return folder


def shared_options(cell: Cell, adapter: Path, threads: int) -> list[object]:
    """Of `study.search` and `study.likelihood`."""
    kind = ["--bf16"] if cell.bf16 else []
    base = ("--base-model", BASES / cell.base, "--adapter", adapter, "--scale", cell.scale)
    return ["--task", cell.task, *base, "--threads", threads, *kind]


def decode(cell: Cell, adapter: Path, rules: str, threads: int, *items: object) -> None:
    shared = shared_options(cell, adapter, threads)
    python("study.search", *shared, "--rules", rules, *items)


def run(cell: Cell, threads: int) -> None:
    folder = averaged(cell, threads) if cell.other else train(cell.task, cell.base, threads)
    adapters = [folder / f"{step:04}" for step in cell.steps]
    for adapter in adapters:
        decode(cell, adapter, cell.rules, threads, "--items", cell.dev_items)
        python("study.likelihood", *shared_options(cell, adapter, threads))
    if cell.tested:
        decode(cell, adapters[-1], cell.tested, threads, "--split", "test")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--task", choices=tasks.TASKS, action="append", help="default: all of them")
    parser.add_argument("--base", choices=(SMALL, LARGE), action="append", help="default: both")
    args = parser.parse_args()
    try:
        if not all((DATA / task).exists() for task in tasks.TASKS):
            python("study.tasks")
        python("study.prepare_base", BASES / LARGE)
        for cell in PLAN:
            if cell.task in (args.task or tasks.TASKS) and cell.base in (args.base or cell.base):
                run(cell, args.threads)
        python("study.report")
    except (subprocess.CalledProcessError, KeyboardInterrupt):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
