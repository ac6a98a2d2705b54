"""Whether a forward can be captured as a graph, and what it takes then; else what refuses."""

from __future__ import annotations

import traceback
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.device.bench import Bench
from cold_kernels import Mode


def run(bench: Bench) -> dict[str, Any]:
    """Of the forward of a decoding step."""
    if bench.is_cpu:
        return {"refused": "a CPU has no graphs"}
    found: dict[str, Any] = {}
    for sequences in bench.sizes.sequences:
        tokens = np.arange(1, 1 + sequences, dtype=np.int64)
        step = bench.subject.step(tokens, max(bench.sizes.contexts), Mode.COLD)
        forward = partial(bench.subject.model.forward, step.tokens, step.rows, step.blocks)
        try:
            seconds = bench.device_s([forward])
        except RuntimeError as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = next((f for f in reversed(frames) if "cold_" in f.filename), frames[-1])
            found[str(sequences)] = {
                "refused": str(error).splitlines()[0][:300],
                "at": f"{ours.name}: {ours.line}",
            }
            torch.cuda.synchronize()
        else:
            found[str(sequences)] = {"forward_ms": 1e3 * seconds}
        print(sequences, found[str(sequences)], flush=True)
    return found
