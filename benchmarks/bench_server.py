"""Measures the server beside its peers and beside what it cannot do without, all in one run.

    python benchmarks/bench_server.py --base-model DIR --out benchmarks/results

Every arm stays loaded; rounds ask one after the other, in an order that rotates. See README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# Everything needed is on this machine; set before transformers is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
_ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_ROOT), str(_ROOT / "examples")]

import torch
from equations.data import DEV_FILE, read_problems
from equations.prompts import prompt_ids
from safetensors import safe_open
from transformers import AutoTokenizer

from benchmarks import report
from benchmarks.bars import Results, bars, table
from benchmarks.circumstances import circumstances, save_result
from benchmarks.measure import Cell, equal_rounds, measure, say, summarise
from benchmarks.random_adapter import make_adapter
from benchmarks.resident import Resident
from benchmarks.served import running_server, served
from benchmarks.vllm import environment, vllm
from cold_backend.config import Settings

_DATA = _ROOT / "examples" / "data" / "word_problems"
_STREAMS = (1, 8, 16)
_CONTEXT = 512
_LONG_PROMPT = 256
_DTYPES = ("bfloat16", "float32")
_PARTS = ("read_weights", "base_forward", "adapter_forward")
_NAIVE = (
    "peft_unmerged_greedy",
    "peft_merged_greedy",
    "naive_two_pass_cold",
    "peft_mixed_batch_cold",
)
# Pairs that compute the same: how often they give the same tokens is reported.
_SAME = (
    ("server_cold", "naive_two_pass_cold"),
    ("server_cold", "in_process_cold"),
    ("server_greedy", "peft_unmerged_greedy"),
    ("server_cold", "ensemble_cold"),
)
_BOUND = {"OMP_PROC_BIND": "true"}  # as the server's model processes are


def main() -> int:
    options = parse_arguments()
    details = circumstances("benchmarks/bench_server.py")
    adapter, merged = options.cache / "adapter", options.cache / "merged"
    make_adapter(options.base_model, adapter, merged)
    with ExitStack() as stack:
        arms = Arms(options, adapter, merged, stack)
        cells, first = arms.cells(), arms.first_token_cells()
        prompts = read_prompts(options.base_model)
        series = measure(cells, prompts, rounds=options.rounds, tokens=options.tokens)
        long = [(prompt * _LONG_PROMPT)[:_LONG_PROMPT] for prompt in prompts]
        first_series = measure(first, long, rounds=options.rounds, tokens=2)
        memory = arms.memory
    results = Results(
        cells=list(zip(cells, series, strict=True)),
        first_tokens=list(zip(first, first_series, strict=True)),
        model_bytes=arms.model_bytes,
        memory=memory,
    )
    save(options, details, results)
    return 0


class Arms:
    """All arms, loaded and waiting.

    Args:
        options: of the command line.
        adapter: a PEFT directory.
        merged: a model directory, the base with the adapter in its weights.
        stack: ends the arms.
    """

    def __init__(
        self, options: argparse.Namespace, adapter: Path, merged: Path, stack: ExitStack
    ) -> None:
        self._options = options
        size: int = getattr(torch, options.dtype).itemsize
        # The files: the merged model in 16 bits, the adapter in 32.
        self.model_bytes = tensor_bytes(merged) * size // 2
        adapter_bytes = tensor_bytes(adapter) * size // 4
        cold = self._settings(options.base_model, {"random": str(adapter)}, "fused")
        say("starting the servers")
        start = stack.enter_context
        self._server = start(running_server(cold))
        self._merged_server = start(running_server(self._settings(merged, {}, "fused")))
        ensemble = dataclasses.replace(cold, execution="ensemble", threads=options.threads // 2)
        self._ensemble = start(running_server(ensemble))
        say("loading the arms without a server")
        settings_file = Path(start(tempfile.TemporaryDirectory())) / "settings.json"
        cold.save(settings_file)
        read = (settings_file, self.model_bytes + adapter_bytes)
        self._engine = start(Resident([*_python("in_process.py"), *map(str, read)], _BOUND))
        shared = (options.base_model, adapter, options.dtype, options.threads)
        self._naive = start(Resident([*_python("naive.py"), *map(str, shared)], _BOUND))
        self._vllm = {
            name: start(vllm(options.peers, options.threads, arguments))
            for name, arguments in {
                "vllm_merged_greedy": (merged, options.dtype),
                "vllm_unmerged_greedy": (options.base_model, options.dtype, adapter),
            }.items()
            if options.peers
        }

    @property
    def memory(self) -> dict[str, int]:
        """What loading took in process."""
        return self._engine.loaded

    def cells(self) -> list[Cell]:
        """What is measured in every round."""
        engine = self._engine
        return [
            *(Cell("server_cold", n, served(self._server, "cold")) for n in _STREAMS),
            *(Cell("in_process_cold", n, engine.arm("cold")) for n in _STREAMS),
            *(
                Cell(name, n, arm.arm("greedy"))
                for name, arm in self._vllm.items()
                for n in _STREAMS
            ),
            Cell("server_greedy", 1, served(self._server, "greedy")),
            Cell("server_merged_greedy", 1, served(self._merged_server, "base")),
            Cell("ensemble_cold", 1, served(self._ensemble, "cold")),
            *(Cell(name, 1, engine.arm(name)) for name in _PARTS),
            *(Cell(name, 1, self._naive.arm(name)) for name in _NAIVE),
        ]

    def first_token_cells(self) -> list[Cell]:
        """What is measured with long prompts, for the time to the first token."""
        name = "peft_unmerged_prefill"
        return [
            Cell("server_cold", 1, served(self._server, "cold")),
            Cell(name, 1, self._naive.arm(name)),
        ]

    def _settings(self, base_model: Path, adapters: dict[str, str], execution: str) -> Settings:
        return Settings(
            base_model=str(base_model),
            adapters=adapters,
            device="cpu",
            dtype=self._options.dtype,
            execution=execution,
            max_sequences=max(_STREAMS),
            max_context=_CONTEXT,
            prefix_reuse=False,  # prompts come again in every round
            threads=self._options.threads,
        )


def _python(program: str) -> list[str]:
    return [sys.executable, str(_ROOT / "benchmarks" / program)]


def read_prompts(base_model: Path) -> list[list[int]]:
    """Real prompts, joined and cut to 64 to 256 tokens."""
    tokenizer = AutoTokenizer.from_pretrained(base_model, trust_remote_code=False)
    problems = read_problems(_DATA / DEV_FILE)
    tokens = [token for problem in problems[:64] for token in prompt_ids(tokenizer, problem)]
    count = max(_STREAMS)
    lengths = [64 + 192 * (7 * n % count) // (count - 1) for n in range(count)]
    starts = [sum(lengths[:n]) for n in range(count)]
    return [tokens[s : s + length] for s, length in zip(starts, lengths, strict=True)]


def tensor_bytes(directory: Path) -> int:
    """Of the tensors in a directory's safetensors files; a tied head is there once."""
    total = 0
    for path in directory.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            total += sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    return total


def save(options: argparse.Namespace, details: dict[str, Any], results: Results) -> None:
    cells, series = zip(*results.cells, strict=True)
    rows = summarise(cells, series)
    all_bars = bars(results)
    same = {f"{one} = {other}": equal_rounds(cells, series, one, other) for one, other in _SAME}
    result = {
        **details,
        "base_model": options.base_model.name,
        "dtype": options.dtype,
        "threads": options.threads,
        "rounds": options.rounds,
        "tokens": options.tokens,
        "bars": [dataclasses.asdict(bar) | {"met": bar.is_met} for bar in all_bars],
        "rows": [dataclasses.asdict(row) for row in rows],
        "model_bytes": results.model_bytes,
        "memory": results.memory,
        "rounds_with_equal_tokens": same,
        "by_round": [
            {"arm": c.arm, "streams": c.streams, **dataclasses.asdict(s)}
            for c, s in [*results.cells, *results.first_tokens]
        ],
    }
    stem = options.out / f"bench_server_{options.dtype}"
    save_result(result, stem.with_suffix(".json"))
    title = (
        f"{options.base_model.name}, {options.dtype}, {details['cpu']}, {options.threads} threads"
    )
    report.draw(rows, title, stem.with_suffix(".png"))
    print(report.table(rows))
    print(table(all_bars))
    for pair, count in same.items():
        print(f"same tokens in {count} of {options.rounds} rounds: {pair}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--base-model", type=directory, required=True, metavar="DIR")
    add("--cache", type=Path, required=True, metavar="DIR", help="for the random adapter")
    add("--peers", type=environment, metavar="DIR", help="virtual environment with vLLM")
    add("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    add("--rounds", type=positive, default=5)
    add("--tokens", type=positive, default=128, help="new tokens of every answer, at least 2")
    cores = len(os.sched_getaffinity(0))
    add("--threads", type=positive, default=cores, help="CPU threads of every arm, at least 2")
    add("--dtype", choices=_DTYPES, default="bfloat16")
    add("--quick", action="store_true", help="one round of 8 tokens, to see that it runs")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.tokens = 1, 8
    if options.tokens < 2 or options.threads < 2:
        parser.error("--tokens and --threads: must be at least 2")
    return options


def directory(text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"no directory {text!r}")
    return path


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
