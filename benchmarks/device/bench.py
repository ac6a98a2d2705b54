"""The device that is looked at, and how long things take on it."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.device.subject import Subject, Wanted
from cold_backend.config import Settings
from cold_backend.loading import take_device
from cold_kernels import Ops, load_ops

_REPEATS = 7
_FEWEST_CALLS = 32

LLAMA_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
}
TINY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    Attributes:
        model: the Llama that steps are measured with.
        dtype: its own.
        sequences: at once, the last are the most.
        contexts: tokens that a sequence has already, the last are the most.
        steps: of decoding.
        chunk: tokens of a prompt at a time.
        lora_tokens: of lora_apply.
        copied_bytes: to measure the memory's bandwidth.
    """

    model: dict[str, Any]
    dtype: torch.dtype
    sequences: tuple[int, ...]
    contexts: tuple[int, ...]
    steps: int
    chunk: int
    lora_tokens: tuple[int, ...]
    copied_bytes: int


FULL = Sizes(LLAMA_8B, torch.bfloat16, (1, 32), (64, 1024), 30, 512, (1, 2, 63, 64, 256), 2 << 30)
QUICK = Sizes(TINY, torch.float32, (1, 2), (8, 32), 3, 16, (1, 64), 4 << 20)


class Bench:
    """A device and what is measured on it.

    Args:
        device: its name, see `Settings`.
        sizes: how much.
    """

    def __init__(self, device: str, sizes: Sizes) -> None:
        self.device = take_device(Settings(base_model=".", device=device), 0)
        self.sizes = sizes
        self.ops: Ops = load_ops("auto", self.device)

    @property
    def is_cpu(self) -> bool:
        """There are no graphs and no events."""
        return self.device.type == "cpu"

    @cached_property
    def subject(self) -> Subject:
        """The Llama that steps are measured with, made when it is first asked for."""
        sizes = self.sizes
        wanted = Wanted(
            "llama",
            sizes.model,
            sizes.dtype,
            sequences=max(sizes.sequences),
            context=max(sizes.contexts) + sizes.steps + 2,
        )
        return Subject(wanted, self.device, self.ops)

    @cached_property
    def bytes_per_s(self) -> float:
        """What a large copy reads and writes."""
        source = torch.ones(self.sizes.copied_bytes // 4, device=self.device)
        target = torch.empty_like(source)
        seconds = self.eager_s([lambda: target.copy_(source)])
        return 2 * source.nbytes / seconds

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if not self.is_cpu:
            torch.accelerator.synchronize(self.device)

    def eager_s(self, calls: Sequence[Callable[[], object]]) -> float:
        """Seconds of one call, of many one after the other: the host's or the device's, whichever
        takes longer."""
        rounds = []
        for number in range(_REPEATS + 2):
            self.wait()
            begun = time.perf_counter()
            for call in calls:
                call()
            self.wait()
            if number >= 2:  # the first ones compile
                rounds.append((time.perf_counter() - begun) / len(calls))
        return statistics.median(rounds)

    def device_s(self, calls: Sequence[Callable[[], object]]) -> float:
        """Seconds of one call on the device alone: of a graph of many.

        Raises:
            RuntimeError: a call does what no graph can hold.
        """
        repeated = [*calls] * max(1, _FEWEST_CALLS // len(calls))
        for call in calls:
            call()
        self.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in repeated:
                call()
        graph.replay()
        rounds = []
        for _ in range(_REPEATS):
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begun.record()
            graph.replay()
            ended.record()
            ended.synchronize()
            rounds.append(begun.elapsed_time(ended) / 1e3 / len(repeated))
        return statistics.median(rounds)

    def profiled_s(self, calls: Sequence[Callable[[], object]]) -> float:
        """As `device_s`, of what no graph can hold: what the profiler adds up."""
        activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
        with profile(activities=activities, acc_events=True) as profiler:
            for call in calls:
                call()
            self.wait()
        averages: Any = profiler.key_averages()
        device_us = sum(e.self_device_time_total for e in averages if not is_of_host(e))
        return float(device_us) / 1e6 / len(calls)


def is_of_host(entry: Any) -> bool:
    """Whether an entry of the profiler is of the host, not of the device."""
    return str(entry.device_type).endswith("CPU")


def driver() -> str | None:
    """Its version."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip().splitlines()[0]
