"""Writes the items of the tasks: train, held_out, dev and test of each.

PYTHONPATH=examples python -m study.tasks --out study/work/data
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from study import base_nine, commonsense, items, last_word, word_problems

WORD_PROBLEMS = Path("examples/data/word_problems")
TRAINED = ("train", "held_out")  # held_out is for the loss during training
TASKS: dict[str, Callable[[], dict[str, list[items.Item]]]] = {
    "base_nine": base_nine.splits,
    "chain": lambda: word_problems.chains(WORD_PROBLEMS),
    "commonsense": commonsense.splits,
    "equation": lambda: word_problems.equations(WORD_PROBLEMS),
    "last_word": last_word.splits,
}


def without_completion(item: items.Item) -> items.Item:
    return {key: value for key, value in item.items() if key != "completion"}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("study/work/data"))
    parser.add_argument("--task", choices=TASKS, action="append", help="default: all of them")
    args = parser.parse_args()
    for task in args.task or TASKS:
        try:
            splits = TASKS[task]()
        except items.DataError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        for name, part in splits.items():
            asked = part if name in TRAINED else [without_completion(item) for item in part]
            items.write(args.out / task / f"{name}.jsonl", asked)
        sizes = ", ".join(f"{name} {len(part)}" for name, part in splits.items())
        print(f"{task}: {sizes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
