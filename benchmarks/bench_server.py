"""Measures the server beside what one would do with transformers and PEFT alone.

    python benchmarks/bench_server.py --base-model DIR --adapter NAME=DIR --out benchmarks/results

One run measures all arms on the same prompts, in rounds whose order rotates; see README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

# Everything needed is on this machine; set before transformers is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "examples"))

import report
import torch
from equations.data import DEV_FILE, read_problems
from equations.model import prompt_ids
from measure import Cell, Series, equal_rounds, measure, summarise
from naive import greedy, load, two_pass_cold
from served import running_server, served
from transformers import AutoTokenizer

from cold_backend.config import Settings
from cold_client import Client

_DATA = Path(__file__).resolve().parents[1] / "examples" / "data" / "word_problems"
_STREAMS = (1, 8, 16)
_MAX_CONTEXT = 1024
_DTYPES = ("float32", "bfloat16")
# Pairs that compute the same: how often they give the same tokens is reported.
_SAME = (
    ("server_cold", "naive_two_pass_cold"),
    ("server_greedy", "peft_unmerged_greedy"),
    ("peft_merged_greedy", "peft_unmerged_greedy"),
)


def main() -> int:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    details = report.circumstances("bench_server.py")
    prompts = read_prompts(options.base_model, options.prompts)
    settings = server_settings(options)
    local_cells = naive_cells(options)
    with running_server(settings) as client:
        cells = [*local_cells, *server_cells(client)]
        series = measure(cells, prompts, rounds=options.rounds, tokens=options.tokens)
    save(options, details, cells, series, settings)
    return 0


def naive_cells(options: argparse.Namespace) -> list[Cell]:
    directory = options.adapter[1]
    unmerged = load(options.base_model, directory, options.dtype, merged=False)
    merged = load(options.base_model, directory, options.dtype, merged=True)
    return [
        Cell("peft_unmerged_greedy", 1, greedy(unmerged)),
        Cell("peft_merged_greedy", 1, greedy(merged)),
        Cell("naive_two_pass_cold", 1, two_pass_cold(unmerged)),
    ]


def server_cells(client: Client) -> list[Cell]:
    return [
        Cell(f"server_{decoding}", streams, served(client, decoding))
        for decoding in ("cold", "greedy", "base")
        for streams in _STREAMS
    ]


def server_settings(options: argparse.Namespace) -> Settings:
    name, directory = options.adapter
    return Settings(
        base_model=str(options.base_model),
        adapters={name: str(directory)},
        device="cpu",
        dtype=options.dtype,
        max_sequences=max(_STREAMS),
        max_context=_MAX_CONTEXT,
        # Expert and base run at the same time: together they get what the other arms get.
        threads=max(1, options.threads // 2),
    )


def read_prompts(base_model: Path, count: int) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    problems = read_problems(_DATA / DEV_FILE)[:count]
    return [prompt_ids(tokenizer, problem) for problem in problems]


def save(
    options: argparse.Namespace,
    details: dict[str, Any],
    cells: list[Cell],
    series: list[Series],
    settings: Settings,
) -> None:
    rows = summarise(cells, series)
    result = {
        **details,
        "base_model": options.base_model.name,
        "adapter": options.adapter[0],
        "dtype": options.dtype,
        "threads": options.threads,
        "threads_per_server_model": settings.threads,
        "rounds": options.rounds,
        "tokens": options.tokens,
        "prompts": options.prompts,
        "rows": [dataclasses.asdict(row) for row in rows],
        "rounds_with_equal_tokens": {
            f"{one} = {other}": equal_rounds(cells, series, one, other) for one, other in _SAME
        },
        "by_round": [
            {"arm": c.arm, "streams": c.streams, **dataclasses.asdict(s)}
            for c, s in zip(cells, series, strict=True)
        ],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / f"bench_server_{options.dtype}"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    title = (
        f"{options.base_model.name}, {options.dtype}, {details['cpu']}, {options.threads} threads"
    )
    report.draw(rows, title, stem.with_suffix(".png"))
    print(report.table(rows))
    for pair, count in result["rounds_with_equal_tokens"].items():
        print(f"same tokens in {count} of {options.rounds} rounds: {pair}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--base-model", type=directory, required=True, metavar="DIR")
    add("--adapter", type=adapter, required=True, metavar="NAME=DIR")
    add("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    add("--rounds", type=positive, default=5)
    add("--tokens", type=positive, default=64, help="new tokens of every answer, at least 2")
    add("--prompts", type=positive, default=16, help="how many different prompts")
    cores = len(os.sched_getaffinity(0))
    add("--threads", type=positive, default=cores, help="CPU threads of every arm")
    add("--dtype", choices=_DTYPES, default="float32")
    add("--quick", action="store_true", help="one round of 8 tokens, to see that it runs")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.tokens = 1, 8
    if options.tokens < 2:
        parser.error("--tokens: must be at least 2, for a time between tokens")
    return options


def directory(text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"no directory {text!r}")
    return path


def adapter(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"must be NAME=DIR, got {text!r}")
    return name, directory(path)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
