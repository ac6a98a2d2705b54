"""Decodes the items of a task under many rules and records who was right.

    PYTHONPATH=examples python -m study.search --task chain --split dev --rules every \\
        --adapter study/work/adapters/RUN/0030

One JSON file in --out for each adapter, split and set of rules. Ctrl-C keeps what is finished; the
same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Everything needed is on this machine; set before transformers and peft are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from study import items, rules
from study.tree import Counts, Pair, decode

BASE_MODEL = Path("~/.cache/cold-server/SmolLM2-135M-Instruct")
MAX_TOKENS = {"base_nine": 60, "chain": 60, "commonsense": 12, "equation": 40}
# The last number is the answer; elsewhere all words are.
NUMERIC = ("base_nine", "chain")
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def is_right(task: str, text: str, item: items.Item) -> bool:
    if task not in NUMERIC:
        return text.split() == str(item["answer"]).split()
    numbers = NUMBER.findall(text)
    return bool(numbers) and abs(value(numbers[-1]) - value(item["answer"])) < 1e-3


def value(text: str) -> float:
    return float(text.replace(",", ""))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--task", required=True)
    add("--split", default="dev")
    add("--base-model", type=Path, default=BASE_MODEL)
    add("--adapter", type=Path, required=True)
    add("--rules", default="grid", help="core, every, grid, or names of rules separated by ;")
    add("--scale", type=float, default=1.0, help="factor on the adapter's weights")
    add("--data", type=Path, default=Path("study/work/data"))
    add("--out", type=Path, default=Path("study/results"))
    add("--texts", type=Path, default=Path("study/work/texts"), help="folder for the answers")
    add("--items", type=int, default=10**9, help="at most so many")
    add("--batch", type=int, default=20, help="items decoded together")
    add("--threads", type=int, default=1)
    add("--bf16", action="store_true")
    return parser.parse_args()


def all_rules() -> dict[str, rules.Rule]:
    return {**rules.every(), "base": rules.base}


SETS: dict[str, Callable[[], dict[str, rules.Rule]]] = {
    "core": rules.core,
    "every": all_rules,
    "grid": rules.grid,
}


def chosen_rules(text: str) -> dict[str, rules.Rule]:
    known = all_rules()
    if text in SETS:
        return SETS[text]()
    return {name: known.get(name) or rules.cold(*parse_cold(name)) for name in text.split(";")}


def parse_cold(name: str) -> tuple[float, float]:
    """`cold a=0.1 b=0.5` as beta, alpha."""
    match = re.fullmatch(r"cold a=(\S+) b=(\S+)", name)
    if not match:
        raise SystemExit(f"error: no rule is called {name!r}")
    return float(match[2]), float(match[1])


def adapter_name(adapter: Path, scale: float) -> str:
    """A run, its steps, and the scale if it is not the adapter's own."""
    name = f"{adapter.parent.name}-{int(adapter.name):04}"
    return name if scale == 1.0 else f"{name}-x{scale:g}"


def record_path(args: argparse.Namespace) -> Path:
    kind = args.rules if args.rules in SETS else "chosen"
    name = adapter_name(args.adapter, args.scale)
    folder: Path = args.out
    return folder / f"{name}-{args.task}-{args.split}-{kind}.json"


def new_record(args: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    return {
        "task": args.task,
        "split": args.split,
        "base": args.base_model.name,
        "adapter": args.adapter.parent.name,
        "steps": int(args.adapter.name),
        "scale": args.scale,
        "dtype": "bfloat16" if args.bf16 else "float32",
        "right": dict.fromkeys(names, ""),
        "greedy_steps": 0,
        "contested_steps": 0,
    }


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    chosen = chosen_rules(args.rules)
    path = record_path(args)
    record = json.loads(path.read_text()) if path.exists() else new_record(args, list(chosen))
    todo = items.read(args.data / args.task / f"{args.split}.jsonl")[: args.items]
    done = len(next(iter(record["right"].values())))
    if done >= len(todo):
        return print(f"{path}: complete")
    pair = Pair(args.base_model.expanduser(), args.adapter, args.scale, args.bf16)
    while done < len(todo):
        started = time.monotonic()
        part, counts, texts = todo[done : done + args.batch], Counts(), []
        ids = [pair.tokenizer(x["prompt"], add_special_tokens=False).input_ids for x in part]
        answers = decode(pair, ids, chosen, MAX_TOKENS[args.task], counts)
        for item, answer in zip(part, answers, strict=True):
            for name in chosen:
                text = pair.tokenizer.decode(answer[name])
                record["right"][name] += "01"[is_right(args.task, text, item)]
                texts.append({"id": item["id"], "rule": name, "text": text})
        record["greedy_steps"] += counts.steps
        record["contested_steps"] += counts.contested
        done += len(part)
        append(args.texts / path.with_suffix(".jsonl").name, texts)
        save(path, record)
        rate = (time.monotonic() - started) / len(part)
        left = rate * (len(todo) - done) / 60
        print(
            f"{path.name}: {done}/{len(todo)}, {rate:.2f} s an item, "
            f"{counts.forwards / max(1, counts.steps):.1f} rows for one, {left:.0f} min left",
            flush=True,
        )
    show(record)


def append(path: Path, texts: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(text, ensure_ascii=False) + "\n" for text in texts)


def save(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=0) + "\n", encoding="utf-8")
    os.replace(part, path)


def show(record: dict[str, Any]) -> None:
    right = record["right"]
    reference = right.get("greedy") or next(iter(right.values()))
    for name, bits in sorted(right.items(), key=lambda pair: -pair[1].count("1")):
        won = sum(x > y for x, y in zip(bits, reference, strict=True))
        lost = sum(x < y for x, y in zip(bits, reference, strict=True))
        print(f"{bits.count('1') / len(bits):.3f} +{won} -{lost} {name}")


def main() -> int:
    try:
        run(parse_arguments())
    except items.DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
