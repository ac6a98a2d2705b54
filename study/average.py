"""Averages two adapters of one base, as is done to serve several tasks with one adapter.

    PYTHONPATH=examples python -m study.average FIRST SECOND OUT --base-model DIR

The average is exact: its rank is the sum of both.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Everything needed is on this machine; set before transformers and peft are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from finetuning.model import ModelError, load_adapter, load_base

NAME = "average"


def average(base: Path, first: Path, second: Path, out: Path) -> None:
    model = load_adapter(load_base(base)[0], first)
    model.load_adapter(second, "second", use_safetensors=True)
    model.add_weighted_adapter(["default", "second"], [0.5, 0.5], NAME, combination_type="cat")
    model.save_pretrained(out.parent, selected_adapters=[NAME], save_embedding_layers=False)
    (out.parent / NAME).rename(out)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("first", "second", "out"):
        parser.add_argument(name, type=Path, metavar=name.upper())
    parser.add_argument("--base-model", type=Path, required=True)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        average(args.base_model.expanduser(), args.first, args.second, args.out)
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
