"""The engine without a server, as resident arms: what tritonserver adds is the difference.

    python benchmarks/in_process.py SETTINGS.json WEIGHT_BYTES

Arms: `cold`; `base_forward` and `adapter_forward`, the steps of each language model alone;
`read_weights`, which reads as much memory a token as there are weights.
"""

from __future__ import annotations

import math
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
from cold_backend.contract import Int32Array, Reads, Row
from cold_backend.engine.adapter_slots import AdapterSlots
from cold_backend.engine.admission import Admission
from cold_backend.engine.engine import Engine
from cold_backend.engine.scheduler import Scheduler
from cold_backend.errors import ColdError
from cold_backend.loading import load_adapter_lm, load_base_lm, load_fused, load_tokenizer
from cold_backend.models.language_model import LanguageModel
from cold_backend.requests.request import GenerationRequest, RequestParser
from cold_backend.requests.sequence import Piece
from cold_backend.requests.sequence import Sequence as Running
from cold_backend.telemetry.telemetry import Telemetry


def main() -> None:
    settings = load_settings(Path(sys.argv[1]))
    with peak_memory() as of_fused:
        fused = load_fused(settings)
    with peak_memory() as of_both:
        models = load_base_lm(settings), load_adapter_lm(settings)
    torch.set_num_threads(settings.threads)
    arms: dict[str, Generate] = {"cold": Decoding(settings, fused.execute).generate}
    for name, model, reads in zip(
        ("base", "adapter"), models, (Reads.BASE, Reads.EXPERT), strict=True
    ):
        arms[f"{name}_forward"] = forwards(model, reads)
    arms["read_weights"] = reading(int(sys.argv[2]))
    loaded = {
        "fused_bytes": of_fused[0],
        "two_models_bytes": of_both[0],
        "kv_cache_bytes": sum(model.cache.bytes for model in models),
    }
    answer_questions(arms, loaded)


class Decoding:
    """The decoding loop over given prompts, all at once."""

    def __init__(self, settings: Settings, execute: Callable[..., object]) -> None:
        self._settings = settings
        self._execute = execute
        self._tokenizer = load_tokenizer(settings)
        self._parser = RequestParser(settings, self._tokenizer)

    def generate(self, prompts: Sequence[list[int]], tokens: int) -> list[Generated]:
        adapters = AdapterSlots(self._settings.adapter_names)
        scheduler = Scheduler(
            self._settings.max_sequences, self._settings.max_step_tokens, adapters
        )
        admission = Admission(len(prompts), max_wait_s=math.inf)
        telemetry = Telemetry(self._settings)
        engine = Engine(self._execute, scheduler, admission, telemetry)  # type: ignore[arg-type]
        sinks = [_Record() for _ in prompts]
        for prompt, sink in zip(prompts, sinks, strict=True):
            engine.submit(Running(self._request(prompt, tokens), sink, self._tokenizer))
        while any(not sink.ended for sink in sinks):
            engine.step()
        return [sink.generated() for sink in sinks]

    def _request(self, prompt: list[int], tokens: int) -> GenerationRequest:
        return self._parser.parse(
            {
                "input_ids": np.array([prompt], np.int64),
                "decoding": np.array([["cold" if self._settings.adapters else "base"]], object),
                "alpha": np.array([[ALPHA]], np.float32),
                "beta": np.array([[BETA]], np.float32),
                "max_tokens": np.array([[tokens]], np.int32),
                "ignore_eos": np.array([[True]]),
                "stream": np.array([[True]]),
            }
        )


class _Record:
    """A sink that keeps tokens and times."""

    def __init__(self) -> None:
        self.ended = False
        self._begun_s = time.perf_counter()
        self._tokens: list[tuple[int, float]] = []

    def send(self, piece: Piece) -> None:
        now = time.perf_counter() - self._begun_s
        self._tokens += [(token.id, now) for token in piece.tokens]
        self.ended = piece.finish_reason is not None

    def fail(self, error: ColdError) -> None:
        raise error

    def is_cancelled(self) -> bool:
        return False

    def generated(self) -> Generated:
        ids, times_s = zip(*self._tokens, strict=True)
        return Generated(list(ids), times_s[0], times_s[-1])


def forwards(model: LanguageModel, reads: Reads) -> Generate:
    """One model's own steps, with made-up tokens: what the ensemble cannot do without."""

    def one(prompt: list[int], tokens: int) -> Generated:
        begun = time.perf_counter()
        model.forward(np.array(prompt), _row(0, len(prompt), reads))
        first = time.perf_counter()
        for number in range(tokens - 1):
            model.forward(np.array(prompt[:1]), _row(len(prompt) + number, 1, reads))
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


def _row(start: int, length: int, reads: Reads) -> Int32Array:
    values = {
        Row.SLOT: 0,
        Row.START: start,
        Row.LENGTH: length,
        Row.ADAPTER: 0 if reads is Reads.EXPERT else -1,
        Row.READS: int(reads),
        Row.EMITS: 1,
    }
    return np.array([[values[column] for column in Row]], np.int32)


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
