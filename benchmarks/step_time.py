"""Where a step's milliseconds go, and how they grow with streams, context and adapters.

    OMP_PROC_BIND=true python benchmarks/step_time.py --base-model DIR --cache DIR

Runs the fused engine in this process with a clock around every op. What tritonserver adds is taken
from the results of bench_server.py, if they are there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import matplotlib as mpl
import numpy as np
import torch

# Run as a program, not as a module.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.circumstances import circumstances, save_result
from benchmarks.in_process import Decoding
from benchmarks.random_adapter import make_adapter
from cold_backend.adapters.adapter import load_adapter
from cold_backend.config import Settings
from cold_backend.contract import NONE, Reader, Step, StepResult, blocks_for
from cold_backend.decoding.execution import FusedExecution
from cold_backend.loading import network_of, ops_for
from cold_backend.models.checkpoint import load_config, load_model
from cold_backend.models.language_model import LanguageModel
from cold_backend.models.lora import AdapterSet
from cold_kernels import Ops

_CPU = torch.device("cpu")
_TOKENS = 24
_ADAPTERS = 8
_CONTEXT = 1024 + 128
_SIZES = {"streams": (1, 2, 4, 8, 16), "context": (64, 256, 512, 1024), "adapters": (1, 2, 4, 8)}
_QUICK = {"streams": (1, 2), "context": (64,), "adapters": (2,)}
_OPS = ("project", "attend", "add_rms_norm", "silu_multiply", "contrast_select")
PARTS = ("matrices", "head", "attention", "norms, activation", "LoRA", "contrast", "Python")


class Clock:
    """Seconds by op since the last step, and the steps' own."""

    def __init__(self) -> None:
        self.now: dict[str, float] = defaultdict(float)
        self.steps: list[
            tuple[int, float, dict[str, float]]
        ] = []  # choices, start, seconds by part

    def around(self, ops: Ops, vocab: int) -> Ops:
        """The ops, timed."""
        timed = {name: self._timed(name, getattr(ops, name), vocab) for name in _OPS}
        return dataclasses.replace(ops, **dict[str, Any](timed))

    def _timed(self, name: str, op: Callable[..., Any], vocab: int) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            result = op(*arguments, **options)
            part = "head" if options.get("widths") == [vocab] else name
            self.now[part] += time.perf_counter() - begun
            return result

        return run


class Bench:
    """The engine with a clock in it."""

    def __init__(self, base_model: Path, adapter: Path) -> None:
        names = [f"adapter{number}" for number in range(_ADAPTERS)]
        self._settings = Settings(
            base_model=str(base_model),
            adapters=dict.fromkeys(names, str(adapter)),
            dtype="bfloat16",
            max_context=_CONTEXT,
            prefix_reuse=False,  # the adapters of rows are exchanged below
        )
        config = load_config(str(base_model))
        self._clock = Clock()
        ops = self._clock.around(ops_for(self._settings, _CPU), config.vocab_size)
        model = load_model(str(base_model), config, torch.bfloat16, _CPU)
        adapters = AdapterSet([load_adapter(name, str(adapter)) for name in names])
        network = network_of(model, adapters, ops, _CONTEXT)
        both = (Reader.EXPERT, Reader.BASE)
        count = len(both) * self._settings.max_sequences * blocks_for(_CONTEXT)
        self._execution = FusedExecution(LanguageModel(network, both, blocks=lambda _: count), ops)

    def parts_ms(self, streams: int, context: int, adapters: int = 1) -> dict[str, float]:
        """Median milliseconds of a decoding step, by part; with no adapter, LoRA is 0."""
        run = self._run(streams, context, adapters)
        plain = self._run(streams, context, 0)
        lora = sum(run[op] - plain[op] for op in ("project", "head"))
        return {
            "matrices": plain["project"],
            "head": plain["head"],
            "attention": run["attend"],
            "norms, activation": run["add_rms_norm"] + run["silu_multiply"],
            "LoRA": max(0.0, lora),
            "contrast": run["contrast_select"],
            "Python": run["step"] - sum(run[op] for op in (*_OPS, "head")),
        }

    def _run(self, streams: int, context: int, adapters: int) -> dict[str, float]:
        clock = self._clock
        clock.steps.clear()

        def execute(step: Step) -> StepResult:
            rows = step.rows.copy()
            of_expert = rows["reader"] == Reader.EXPERT
            numbers = np.arange(of_expert.sum())
            rows["adapters"][of_expert, 0] = numbers % adapters if adapters else NONE
            clock.now = defaultdict(float)
            clock.steps.append((len(step.choices), time.perf_counter(), clock.now))
            return self._execution.execute(dataclasses.replace(step, rows=rows))

        prompts = [[1 + (7 * n + s) % 4000 for n in range(context)] for s in range(streams)]
        Decoding(self._settings, execute).generate(prompts, _TOKENS + streams * (context // 128))
        pairs = zip(clock.steps, clock.steps[1:], strict=False)
        decoding = [
            parts | {"step": after[1] - start}
            for (choices, start, parts), after in pairs
            if choices == streams and after[0] == streams
        ][-_TOKENS:]
        return {
            name: 1000 * statistics.median(step.get(name, 0.0) for step in decoding)
            for name in (*_OPS, "head", "step")
        }


def main() -> int:
    options = parse_arguments()
    details = circumstances("benchmarks/step_time.py")
    adapter, merged = options.cache / "adapter", options.cache / "merged"
    make_adapter(options.base_model, adapter, merged)
    bench = Bench(options.base_model, adapter)
    bench.parts_ms(1, 64)
    sizes = _QUICK if options.quick else _SIZES
    result = {
        **details,
        "streams": {n: measured(bench, n, 128) for n in sizes["streams"]},
        "context": {n: measured(bench, 8, n) for n in sizes["context"]},
        "adapters": {n: measured(bench, 8, 128, n) for n in sizes["adapters"]},
        "tritonserver": added_by_server(options.out),
    }
    stem = options.out / "step_time"
    save_result(result, stem.with_suffix(".json"))
    draw(result, stem.with_suffix(".png"))
    return 0


def measured(bench: Bench, streams: int, context: int, adapters: int = 1) -> dict[str, float]:
    parts = bench.parts_ms(streams, context, adapters)
    listed = ", ".join(f"{name} {ms:.2f}" for name, ms in parts.items())
    print(
        f"{streams:>3} streams, {context:>5} tokens, {adapters} adapters: "
        f"{sum(parts.values()):6.2f} ms  {listed}",
        flush=True,
    )
    return parts


def added_by_server(results: Path) -> dict[int, float]:
    """Milliseconds per token by streams, beyond the same engine in process."""
    path = results / "bench_server_bfloat16.json"
    if not path.is_file():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    ms = {(row["arm"], row["streams"]): row["ms_per_token"] for row in rows}
    return {
        streams: value - ms["in_process_cold", streams]
        for (arm, streams), value in ms.items()
        if arm == "server_cold"
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """Stacked parts by streams; beside them the whole step over context and adapters."""
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, 3, figsize=(13, 4.5), layout="constrained", width_ratios=(2, 1, 1)
    )
    _stack(axes[0], result["streams"], result["tritonserver"])
    axes[0].set_xlabel("streams, 128 prompt tokens each")
    axes[0].set_ylabel("ms per step")
    axes[0].legend(fontsize="small", loc="upper left")
    _stack(axes[1], result["context"], {})
    axes[1].set_xlabel("context in tokens, 8 streams")
    _stack(axes[2], result["adapters"], {})
    axes[2].set_xlabel("adapters among 8 streams")
    figure.suptitle(f"One step of CoLD, fused, bfloat16, {result['cpu']}")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _stack(axis: Any, columns: dict[int, dict[str, float]], server: dict[int, float]) -> None:
    names = [str(column) for column in columns]
    bottom = [0.0] * len(names)
    for part in (*PARTS, *(("tritonserver, gRPC",) if server else ())):
        heights = [
            max(0.0, server.get(column, 0.0)) if part not in PARTS else parts[part]
            for column, parts in columns.items()
        ]
        axis.bar(names, heights, bottom=bottom, label=part)
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    axis.bar_label(axis.containers[-1], [f"{total:.1f}" for total in bottom])


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--base-model", type=Path, required=True, metavar="DIR")
    add("--cache", type=Path, required=True, metavar="DIR", help="for the random adapter")
    add("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    add("--quick", action="store_true", help="a few sizes only, to see that it runs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
