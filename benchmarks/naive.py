"""What one would do without the server, with transformers and PEFT, as resident arms.

python benchmarks/naive.py BASE_MODEL ADAPTER DTYPE THREADS
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
)

# Run as a program, not as a module.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import Generate, Generated
from benchmarks.resident import answer_questions

ALPHA, BETA = 0.1, 0.5


def main() -> None:
    base_model, adapter, dtype, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    unmerged = load(Path(base_model), Path(adapter), dtype, merged=False)
    merged = load(Path(base_model), Path(adapter), dtype, merged=True)
    answer_questions(
        {
            "peft_unmerged_greedy": greedy(unmerged),
            "peft_merged_greedy": greedy(merged),
            "naive_two_pass_cold": two_pass_cold(unmerged),
            "peft_mixed_batch_cold": mixed_batch_cold(unmerged),
            "peft_unmerged_prefill": prefill(unmerged),
        }
    )


class _Clock(LogitsProcessor):
    """Changes nothing; notes when each step's scores are there."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.times_s.append(time.perf_counter())
        return scores


def load(base_model: Path, adapter: Path, dtype: str, *, merged: bool) -> Any:
    """The base with the adapter on it, beside its layers or merged into their weights."""
    kind = getattr(torch, dtype)
    base = AutoModelForCausalLM.from_pretrained(base_model, dtype=kind, trust_remote_code=False)
    # PEFT keeps adapters in float32 otherwise.
    model = PeftModel.from_pretrained(base, adapter, autocast_adapter_dtype=False).to(kind)
    if merged:
        model = model.merge_and_unload()
    # generate() takes the end of sequence from here even when its own config says None.
    model.generation_config.eos_token_id = None
    return model.eval()


def greedy(model: Any) -> Generate:
    """generate() of transformers, greedy."""

    def one(prompt: list[int], tokens: int) -> Generated:
        clock = _Clock()
        config = GenerationConfig(
            max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        ids = torch.tensor([prompt])
        begun = time.perf_counter()
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            logits_processor=LogitsProcessorList([clock]),
        )
        new = output[0, len(prompt) :].tolist()
        return Generated(new, clock.times_s[0] - begun, clock.times_s[-1] - begun)

    return _each(one)


def two_pass_cold(model: Any) -> Generate:
    """CoLD as two forward passes a step, with the adapter and without, each with its KV cache."""

    def one(prompt: list[int], tokens: int) -> Generated:
        ids, new, times_s = torch.tensor([prompt]), [], []
        caches: list[Any] = [None, None]
        begun = time.perf_counter()
        for _ in range(tokens):
            expert = model(input_ids=ids, past_key_values=caches[0], logits_to_keep=1)
            with model.disable_adapter():
                base = model(input_ids=ids, past_key_values=caches[1], logits_to_keep=1)
            caches = [expert.past_key_values, base.past_key_values]
            ids = _contrast(expert.logits[:, -1], base.logits[:, -1])
            new.append(int(ids))
            times_s.append(time.perf_counter())
        return Generated(new, times_s[0] - begun, times_s[-1] - begun)

    return _each(one)


def mixed_batch_cold(model: Any) -> Generate:
    """CoLD as one batch of two rows, of which PEFT gives the adapter to the first."""

    def one(prompt: list[int], tokens: int) -> Generated:
        ids, new, times_s = torch.tensor([prompt, prompt]), [], []
        cache = None
        begun = time.perf_counter()
        for _ in range(tokens):
            output = model(
                input_ids=ids,
                past_key_values=cache,
                logits_to_keep=1,
                adapter_names=["default", "__base__"],
            )
            cache = output.past_key_values
            token = _contrast(output.logits[:1, -1], output.logits[1:, -1])
            ids = token.expand(2, 1)
            new.append(int(token))
            times_s.append(time.perf_counter())
        return Generated(new, times_s[0] - begun, times_s[-1] - begun)

    return _each(one)


def prefill(model: Any) -> Generate:
    """The prompt's forward alone; its tokens are made up."""

    def one(prompt: list[int], tokens: int) -> Generated:
        begun = time.perf_counter()
        model(input_ids=torch.tensor([prompt]), logits_to_keep=1)
        seconds = time.perf_counter() - begun
        return Generated([0] * tokens, seconds, seconds)

    return _each(one)


def _contrast(expert: Tensor, base: Tensor) -> Tensor:
    """[1, 1] best token: contrasted scores among those that the expert holds likely enough."""
    e, b = expert.float(), base.float()
    valid = e >= e.amax(-1, keepdim=True) + math.log(ALPHA)
    scores = ((1 + BETA) * e - BETA * b).masked_fill(~valid, -torch.inf)
    return scores.argmax(-1, keepdim=True)


def _each(one: Callable[[list[int], int], Generated]) -> Generate:
    def generate(prompts: Sequence[list[int]], tokens: int) -> list[Generated]:
        with torch.inference_mode():
            return [one(prompt, tokens) for prompt in prompts]

    return generate


if __name__ == "__main__":
    main()
