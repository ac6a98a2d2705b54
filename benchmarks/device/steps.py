"""Milliseconds of a decoding step, by sequences and context, beside what the memory allows."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from benchmarks.device.bench import Bench
from cold_kernels import Mode


def run(bench: Bench) -> dict[str, Any]:
    """CoLD and greedy, over lengths that are new and then known; and prompts."""
    begun = time.perf_counter()
    subject = bench.subject
    bench.wait()
    found: dict[str, Any] = {
        "weight_bytes": subject.weight_bytes,
        "kv_bytes_per_token": subject.cache_bytes,
        "copy_gb_per_s": bench.bytes_per_s / 1e9,
        "made_s": round(time.perf_counter() - begun, 1),
        "rows": [],
    }
    filled = dict.fromkeys(range(max(bench.sizes.sequences)), 0)
    for sequences in bench.sizes.sequences:
        for context in bench.sizes.contexts:
            prompt_ms = _fill(bench, filled, sequences, context)
            row = {"sequences": sequences, "context": context, "prompt_token_ms": prompt_ms}
            row |= _measured(bench, sequences, context)
            print({k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()})
            found["rows"].append(row)
    return found


def _fill(bench: Bench, filled: dict[int, int], sequences: int, context: int) -> float | None:
    """Feeds prompts to those that lack them; milliseconds a token, that of each reader counted."""
    begun, fed = time.perf_counter(), 0
    for sequence in range(sequences):
        if filled[sequence] < context:
            bench.subject.fill(sequence, context, bench.sizes.chunk)
            filled[sequence] = context
            fed += 2 * context
    bench.wait()
    return 1e3 * (time.perf_counter() - begun) / fed if fed else None


def _measured(bench: Bench, sequences: int, context: int) -> dict[str, Any]:
    # Twice each: what is compiled or planned for a length is, the first time.
    cold_new, cold = (_decode_ms(bench, sequences, context, Mode.COLD) for _ in range(2))
    greedy_new, greedy = (_decode_ms(bench, sequences, context, Mode.EXPERT) for _ in range(2))
    subject = bench.subject
    cache_bytes = 2 * sequences * context * subject.cache_bytes
    return {
        "cold_first_ms": cold_new[0],
        "cold_new_lengths_ms": statistics.median(cold_new),
        "cold_ms": statistics.median(cold),
        "greedy_new_lengths_ms": statistics.median(greedy_new),
        "greedy_ms": statistics.median(greedy),
        "weights_at_copy_speed_ms": 1e3 * subject.weight_bytes / bench.bytes_per_s,
        "kv_at_copy_speed_ms": 1e3 * cache_bytes / bench.bytes_per_s,
    }


def _decode_ms(bench: Bench, sequences: int, context: int, mode: Mode) -> list[float]:
    """Of each step, from the contract's arrays to the picked tokens on the host."""
    tokens = np.arange(1, 1 + sequences, dtype=np.int64)
    times = []
    for position in range(context, context + bench.sizes.steps):
        step = bench.subject.step(tokens, position, mode)
        begun = time.perf_counter()
        result = bench.subject.execution.execute(step)
        times.append(1e3 * (time.perf_counter() - begun))
        tokens = result.picks["token"]
        if (tokens < 0).any():
            raise RuntimeError(f"logits that are no numbers, at position {position}")
    return times
