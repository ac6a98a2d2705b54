"""The ops at the model's shapes: device time, time of a call, and bytes beside the copy's speed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.device.bench import Bench
from benchmarks.device.subject import RANK
from cold_backend.contract import BLOCK_TOKENS, blocks_for
from cold_kernels import Mode

_ADAPTERS = 8
_BEYOND_CACHE = 200 << 20  # of inputs, in turns, so that no call finds its own in the cache
_MOST_SETS = 256


@dataclass(frozen=True, slots=True)
class Case:
    """An op at a shape.

    Attributes:
        title: what it is.
        bytes: that it has to read and write at least.
        make: makes inputs, and returns the call on them.
        fits_graph: it copies nothing from the host.
    """

    title: str
    bytes: int
    make: Callable[[], Callable[[], object]]
    fits_graph: bool = True


def run(bench: Bench) -> list[dict[str, Any]]:
    """One row a case."""
    sizes = bench.sizes.model
    hidden, mlp = sizes["hidden_size"], sizes["intermediate_size"]
    rows = [2 * n for n in bench.sizes.sequences]  # expert and base
    cases = [
        *(lora(bench, n, hidden, m) for m in (hidden, mlp) for n in bench.sizes.lora_tokens),
        *(contrast(bench, n, sampled=s) for s in (False, True) for n in bench.sizes.sequences),
        *(attend(bench, n, context) for context in bench.sizes.contexts for n in rows),
        *(project(bench, n) for n in rows),
        *(norm(bench, n) for n in rows),
        *(activation(bench, n) for n in rows),
    ]
    with torch.inference_mode():
        return [_measured(bench, case) for case in cases]


def _measured(bench: Bench, case: Case) -> dict[str, Any]:
    row: dict[str, Any] = {"case": case.title, "bytes": case.bytes}
    sets = 1 if bench.is_cpu else max(1, min(_MOST_SETS, _BEYOND_CACHE // case.bytes))
    try:
        calls = [case.make() for _ in range(sets)]
        row["call_us"] = 1e6 * bench.eager_s(calls)
        if not bench.is_cpu:
            by_graph = bench.device_s if case.fits_graph else bench.profiled_s
            row["device_us"] = 1e6 * by_graph(calls)
    except RuntimeError as error:
        row["error"] = str(error).splitlines()[0][:200]
    best_us = row.get("device_us", row.get("call_us"))
    if best_us:
        row["gb_per_s"] = case.bytes / best_us / 1e3
        row["of_copy"] = row["gb_per_s"] * 1e9 / bench.bytes_per_s
    print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    return row


def lora(bench: Bench, tokens: int, inputs: int, outputs: int) -> Case:
    """lora_apply: eight adapters in turns, for many tokens in runs."""
    dtype, device = bench.sizes.dtype, bench.device
    used = min(tokens, _ADAPTERS)

    def make() -> Callable[[], object]:
        x, y = (torch.randn(tokens, n, dtype=dtype, device=device) for n in (inputs, outputs))
        a = torch.randn(_ADAPTERS, RANK, inputs, dtype=dtype, device=device)
        b = torch.randn(_ADAPTERS, RANK, outputs, dtype=dtype, device=device) * 1e-3
        index = torch.arange(tokens, dtype=torch.int32, device=device) * _ADAPTERS // tokens
        named = {
            "a": a,
            "b": b,
            "scale": torch.ones(_ADAPTERS, device=device),
            "rank": torch.full((_ADAPTERS,), RANK, dtype=torch.int32, device=device),
            "index": index[None],
            "strength": torch.ones((1, tokens), device=device),
        }
        return lambda: bench.ops.lora_apply(y, x, **named)

    numbers = used * RANK * (inputs + outputs) + tokens * (inputs + 2 * outputs)
    return Case(f"lora_apply {tokens} x {inputs} x {outputs}", numbers * dtype.itemsize, make)


def contrast(bench: Bench, rows: int, *, sampled: bool) -> Case:
    """contrast_select: every row CoLD."""
    vocab, dtype, device = bench.sizes.model["vocab_size"], bench.sizes.dtype, bench.device

    def make() -> Callable[[], object]:
        expert, base = (torch.randn(2, rows, vocab, device=device) * 4).to(dtype)
        key = torch.arange(2 * rows, dtype=torch.int32, device=device).view(rows, 2)
        alpha, beta, temperature = torch.full((3, rows), 0.1, device=device)
        mode = torch.full((rows,), int(Mode.COLD), dtype=torch.int32, device=device)
        if not sampled:
            temperature = torch.zeros_like(temperature)
        return lambda: bench.ops.contrast_select(
            expert,
            base,
            mode=mode,
            alpha=alpha,
            beta=beta,
            temperature=temperature,
            key=key if sampled else None,
        )

    kind = "sampled" if sampled else "greedy"
    size = 2 * rows * vocab * dtype.itemsize
    return Case(f"contrast_select {kind} {rows} x {vocab}", size, make)


def attend(bench: Bench, rows: int, context: int) -> Case:
    """attend: one more token of each of so many rows of that length."""
    sizes, dtype, device = bench.sizes.model, bench.sizes.dtype, bench.device
    heads, groups = sizes["num_attention_heads"], sizes["num_key_value_heads"]
    width = sizes["hidden_size"] // heads
    count = blocks_for(context + 1)

    def make() -> Callable[[], object]:
        qkv = torch.randn(rows, (heads + 2 * groups) * width, dtype=dtype, device=device)
        pool = 2, groups, rows * count, BLOCK_TOKENS, width
        keys, values = torch.randn(pool, dtype=dtype, device=device)
        angles = torch.rand(context + 1, width // 2, device=device)
        spans = torch.tensor([[row * count, context, 1] for row in range(rows)], dtype=torch.int32)
        # As sequences that grow side by side take them.
        blocks = torch.arange(rows * count, dtype=torch.int32).view(count, rows).T.flatten()
        tables = angles.cos(), angles.sin()
        return lambda: bench.ops.attend(qkv, *tables, keys, values, spans, blocks, width**-0.5)

    size = 2 * rows * groups * context * width * dtype.itemsize
    return Case(f"attend {rows} rows, {context} tokens each", size, make, fits_graph=False)


def project(bench: Bench, tokens: int) -> Case:
    """project: gate and up, without adapters."""
    hidden, outputs = bench.sizes.model["hidden_size"], 2 * bench.sizes.model["intermediate_size"]
    dtype, device = bench.sizes.dtype, bench.device

    def make() -> Callable[[], object]:
        x = torch.randn(tokens, hidden, dtype=dtype, device=device)
        weight = bench.ops.packing.pack(torch.randn(outputs, hidden, dtype=dtype, device=device))
        nothing: dict[str, Any] = {"a": [], "b": [], "scale": None, "rank": None}
        used: dict[str, Any] = {
            "index": torch.full((1, tokens), -1, dtype=torch.int32, device=device),
            "strength": torch.ones((1, tokens), device=device),
        }
        return lambda: bench.ops.project(
            x, weight, None, **nothing, **used, widths=[outputs // 2] * 2
        )

    size = (outputs * hidden + tokens * (hidden + outputs)) * dtype.itemsize
    return Case(f"project {tokens} x {hidden} x {outputs}", size, make)


def norm(bench: Bench, tokens: int) -> Case:
    """add_rms_norm: of the residual stream."""

    def make() -> Callable[[], object]:
        stream, delta = _random(bench, 2, tokens, bench.sizes.model["hidden_size"])
        weight = torch.ones_like(stream[0])
        return lambda: bench.ops.add_rms_norm(stream, delta, weight, 1e-5)

    size = 4 * tokens * bench.sizes.model["hidden_size"] * bench.sizes.dtype.itemsize
    return Case(f"add_rms_norm {tokens}", size, make)


def activation(bench: Bench, tokens: int) -> Case:
    """silu_multiply: of the MLP."""

    def make() -> Callable[[], object]:
        gate_up = _random(bench, tokens, 2 * bench.sizes.model["intermediate_size"])
        return lambda: bench.ops.silu_multiply(gate_up)

    size = 3 * tokens * bench.sizes.model["intermediate_size"] * bench.sizes.dtype.itemsize
    return Case(f"silu_multiply {tokens}", size, make)


def _random(bench: Bench, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=bench.sizes.dtype, device=bench.device)
