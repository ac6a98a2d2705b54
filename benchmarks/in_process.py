"""The engine without a server, as resident arms: what tritonserver adds is the difference.

    python benchmarks/in_process.py SETTINGS.json WEIGHT_BYTES

Arms: `cold`; `base_forward` and `adapter_forward`, the steps of each language model alone;
`read_weights`, which reads as much memory a token as there are weights.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

# Run as a program, not as a module.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import Generate, Generated
from benchmarks.naive import ALPHA, BETA
from benchmarks.resident import answer_questions
from cold_backend.config import Settings, load_settings
from cold_backend.contract import (
    NONE,
    ROW,
    Int32Array,
    Reader,
    Step,
    StepResult,
    Table,
    blocks_for,
)
from cold_backend.loading import load_adapter_lm, load_base_lm, load_fused
from cold_backend.models.language_model import LanguageModel
from cold_backend.offline import Cold


def main() -> None:
    settings = load_settings(Path(sys.argv[1]))
    with peak_memory() as of_fused:
        fused = load_fused(settings)
    with peak_memory() as of_both:
        models = load_base_lm(settings), load_adapter_lm(settings)
    torch.set_num_threads(settings.threads)
    arms: dict[str, Generate] = {"cold": Decoding(settings, fused.execute).generate}
    for name, model, reader in zip(
        ("base", "adapter"), models, (Reader.BASE, Reader.EXPERT), strict=True
    ):
        arms[f"{name}_forward"] = forwards(model, reader)
    arms["read_weights"] = reading(int(sys.argv[2]))
    loaded = {
        "fused_bytes": of_fused[0],
        "two_models_bytes": of_both[0],
        "kv_cache_bytes": sum(model.bytes for model in models),
    }
    answer_questions(arms, loaded)


class Decoding:
    """The decoding loop over given prompts, all at once."""

    def __init__(self, settings: Settings, execute: Callable[[Step], StepResult]) -> None:
        self._cold = Cold.over(settings, execute)
        self._decoding = "cold" if settings.adapters else "base"

    def generate(self, prompts: Sequence[list[int]], tokens: int) -> list[Generated]:
        fields = {
            "decoding": self._decoding,
            "alpha": ALPHA,
            "beta": BETA,
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
        }
        requests = [self._cold.request(prompt, **fields) for prompt in prompts]
        answers = dict(self._cold.each(requests))
        return [
            Generated([token.id for token in one.tokens], one.ttft_s, one.latency_s)
            for _, one in sorted(answers.items())
        ]


def forwards(model: LanguageModel, reader: Reader) -> Generate:
    """One model's own steps, with made-up tokens: what the ensemble cannot do without."""

    def one(prompt: list[int], tokens: int) -> Generated:
        begun = time.perf_counter()
        model.forward(np.array(prompt), *_row(0, len(prompt), reader))
        first = time.perf_counter()
        for number in range(tokens - 1):
            model.forward(np.array(prompt[:1]), *_row(len(prompt) + number, 1, reader))
        return Generated([0] * tokens, first - begun, time.perf_counter() - begun)

    return lambda prompts, tokens: [one(prompt, tokens) for prompt in prompts]


def reading(size: int) -> Generate:
    """Reads memory and does nothing with it: what a step cannot be faster than."""
    weights = torch.ones(size // 4)

    def one(tokens: int) -> Generated:
        begun = time.perf_counter()
        times_s = []
        for _ in range(tokens):
            weights.sum()
            times_s.append(time.perf_counter() - begun)
        return Generated([0] * tokens, times_s[0], times_s[-1])

    return lambda prompts, tokens: [one(tokens) for _ in prompts]


def _row(start: int, length: int, reader: Reader) -> tuple[Table, Int32Array]:
    """A row, and its blocks."""
    row = np.zeros(1, ROW)
    row["reader"], row["start"], row["length"], row["emits"] = reader, start, length, 1
    row["adapters"], row["strengths"] = NONE, 1
    row["adapters"][:, 0] = 0 if reader is Reader.EXPERT else NONE
    return row, np.arange(blocks_for(start + length), dtype=np.int32)


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Yields a list that holds, at the end, how much memory the block took at its highest.

    Pages of files do not count: the system may drop them at any time.
    """
    before, highest, done = _resident_bytes(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            highest[0] = max(highest[0], _resident_bytes() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield highest
    finally:
        done.set()
        thread.join()


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not say how much memory a process has")


if __name__ == "__main__":
    main()
