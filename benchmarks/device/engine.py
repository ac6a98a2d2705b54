"""The engine in process: milliseconds of a step by part, and whether a batch changes tokens."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.device.bench import Bench
from benchmarks.device.subject import Subject, Wanted
from cold_backend.config import Settings
from cold_backend.contract import Step, StepResult
from cold_backend.decoding.decode import decode
from cold_backend.engine.engine import Engine
from cold_backend.errors import ColdError
from cold_backend.requests.answer import Piece
from cold_backend.requests.parser import RequestParser
from cold_backend.requests.sequence import Sequence
from cold_backend.telemetry.telemetry import Telemetry
from cold_backend.text.tokenizer import Tokenizer

_PROMPT = 24
_ADAPTER = "random"
# Of requests; one after the other, what each adds to a step.
_KINDS: dict[str, dict[str, float]] = {
    "best token": {},
    "temperature": {"temperature": 1.0},
    "temperature, top_p": {"temperature": 1.0, "top_p": 0.95},
    "temperature, top_p, penalty": {
        "temperature": 1.0,
        "top_p": 0.95,
        "repetition_penalty": 1.1,
    },
}


class Sink:
    """Keeps the tokens of a sequence."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.has_ended = False

    def send(self, piece: Piece) -> None:
        """Keeps what came."""
        self.tokens += [token.id for token in piece.tokens]
        self.has_ended = piece.finish_reason is not None

    def fail(self, error: ColdError) -> None:
        """Nothing here may fail."""
        raise error

    def is_cancelled(self) -> bool:
        """Never."""
        return False


@dataclass
class Times:
    """Milliseconds of steps of decoding alone, by part."""

    forward: list[float] = field(default_factory=list)
    choice: list[float] = field(default_factory=list)
    engine: list[float] = field(default_factory=list)  # all the rest

    def medians(self) -> dict[str, float]:
        """By part, and of the steps."""
        parts = {name: statistics.median(values) for name, values in vars(self).items()}
        return {**parts, "step": sum(parts.values())}


class Serving:
    """An engine's parts over a model.

    Args:
        bench: where.
        subject: the model.
        tokens: of each answer.
    """

    def __init__(self, bench: Bench, subject: Subject, tokens: int) -> None:
        self._bench = bench
        self._subject = subject
        self._tokens = tokens
        self._settings = Settings(
            base_model=".",
            adapters={_ADAPTER: "."},
            max_sequences=subject.wanted.sequences,
            max_context=subject.wanted.context,
            max_wait_s=86400,
        )
        with tempfile.TemporaryDirectory() as folder:
            _make_tokenizer(Path(folder), subject.vocab_size)
            self._tokenizer = Tokenizer(folder, subject.vocab_size)
        self._parser = RequestParser(self._settings, self._tokenizer)

    def generate(
        self, numbers: range, fields: Mapping[str, float]
    ) -> tuple[list[list[int]], Times]:
        """Answers some of the requests, all at once; each has a prompt and a seed of its own."""
        times = Times()
        sinks = [Sink() for _ in numbers]
        engine = self._engine(len(numbers), times)
        for number, sink in zip(numbers, sinks, strict=True):
            engine.submit(Sequence(self._request(number, fields), sink, self._tokenizer))
        while not all(sink.has_ended for sink in sinks):
            known = len(times.forward)
            begun = time.perf_counter()
            engine.step()
            if len(times.forward) > known:
                whole = 1e3 * (time.perf_counter() - begun)
                times.engine.append(whole - times.forward[-1] - times.choice[-1])
        return [sink.tokens for sink in sinks], times

    def _engine(self, sequences: int, times: Times) -> Engine:
        model, ops, wait = self._subject.model, self._bench.ops, self._bench.wait

        def execute(step: Step) -> StepResult:
            """As FusedExecution does, with a clock."""
            loads = model.load_adapters(step.adapters, alone=not len(step.rows))
            model.copy_blocks(step.copies)
            begun = time.perf_counter()
            logits = model.forward(step.tokens, step.rows, step.blocks)
            wait()
            read = time.perf_counter()
            result = decode(ops, step, logits)
            if len(step.choices) == len(step.rows) // 2 == sequences:
                times.forward.append(1e3 * (read - begun))
                times.choice.append(1e3 * (time.perf_counter() - read))
            return replace(result, loads=loads, expert_blocks=np.array([model.blocks]))

        return Engine.of(self._settings, execute, Telemetry(self._settings))

    def _request(self, number: int, fields: Mapping[str, float]) -> Any:
        prompt = np.random.default_rng(number).integers(0, self._subject.vocab_size, _PROMPT)
        return self._parser.parse(
            {
                "input_ids": prompt[None],
                "decoding": np.array([["cold"]], object),
                "max_tokens": np.array([[self._tokens]], np.int32),
                "seed": np.array([[number]], np.int64),
                "ignore_eos": np.array([[True]]),
                **{name: np.array([[value]], np.float32) for name, value in fields.items()},
            }
        )


def run(bench: Bench, *, quick: bool) -> dict[str, Any]:
    """The Llama that steps are measured with, and a small one in float32."""
    tokens = 4 if quick else 10
    serving = Serving(bench, bench.subject, tokens)
    together = range(bench.subject.wanted.sequences)
    serving.generate(together, _KINDS["temperature, top_p"])  # compiles
    found: dict[str, Any] = {"sequences": len(together), "ms": {}}
    for name, fields in _KINDS.items():
        answers, times = serving.generate(together, fields)
        found["ms"][name] = times.medians()
        print(name, {part: round(ms, 2) for part, ms in found["ms"][name].items()}, flush=True)
    sampled = _KINDS["temperature, top_p"]
    answers, _ = serving.generate(together, sampled)
    found["alone_and_together"] = _compared(serving, answers, sampled)
    found["alone_and_together_float32"] = _in_float32(bench, tokens)
    print({name: found[name] for name in found if name.startswith("alone")}, flush=True)
    return found


def _in_float32(bench: Bench, tokens: int) -> dict[str, int]:
    sizes = bench.sizes.model | {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    wanted = Wanted("llama", sizes, torch.float32, 8, 64)
    serving = Serving(bench, Subject(wanted, bench.device, bench.ops), tokens)
    sampled = _KINDS["temperature, top_p"]
    answers, _ = serving.generate(range(8), sampled)
    return _compared(serving, answers, sampled)


def _compared(
    serving: Serving, together: list[list[int]], fields: Mapping[str, float]
) -> dict[str, int]:
    """How many of the first four answers, and of their tokens, are the same alone."""
    first = range(min(4, len(together)))
    alone = [serving.generate(range(n, n + 1), fields)[0][0] for n in first]
    pairs = [*zip(alone, together, strict=False)]
    return {
        "answers": len(pairs),
        "same_answers": sum(one == other for one, other in pairs),
        "tokens": sum(len(one) for one in alone),
        "same_tokens": sum(a == b for one, other in pairs for a, b in zip(one, other, strict=True)),
    }


def _make_tokenizer(folder: Path, vocab_size: int) -> None:
    """A word for each token."""
    from tokenizers import Tokenizer as Made
    from tokenizers import models, pre_tokenizers

    words = {f"w{number}": number for number in range(vocab_size)}
    made = Made(models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}), encoding="utf-8"
    )
