"""Accuracy of base and adapter: greedy answers compared with the true equations."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from finetuning.model import pad_left

from equations.data import Problem, Splits, has_right_value, is_exact, sample
from equations.prompts import prompt_ids

BATCH = 25
# The longest true equation has 40 tokens with its end.
MAX_NEW_TOKENS = 40


def measure(model: Any, tokenizer: Any, splits: Splits, items: int) -> dict[str, Any]:
    """Accuracy of base and adapter on the held-out items and on SVAMP."""
    tests = {"held_out": splits.held_out, "svamp_dev": splits.svamp_dev}
    result: dict[str, Any] = {"base": {}, "adapter": {}}
    for name, problems in tests.items():
        chosen = sample(problems, items)
        for variant in result:
            result[variant][name] = accuracy(model, tokenizer, chosen, variant, name)
    return result


def accuracy(
    model: Any, tokenizer: Any, problems: list[Problem], variant: str, name: str
) -> dict[str, Any]:
    outputs = answers(model, tokenizer, problems, variant == "adapter", f"{variant}, {name}")
    exact = sum(is_exact(text, item) for text, item in zip(outputs, problems, strict=True))
    value = sum(has_right_value(text, item) for text, item in zip(outputs, problems, strict=True))
    count = len(problems)
    return {
        "items": count,
        "exact": exact / count,
        "exact_interval": wilson_interval(exact, count),
        "value": value / count,
        "value_interval": wilson_interval(value, count),
    }


def answers(
    model: Any, tokenizer: Any, problems: list[Problem], with_adapter: bool, label: str
) -> list[str]:
    """Greedy answers, in the order of `problems`."""
    prompts = [prompt_ids(tokenizer, problem) for problem in problems]
    # Problems of similar length together: less padding.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    texts: dict[int, str] = {}
    for start in range(0, len(order), BATCH):
        indexes = order[start : start + BATCH]
        with nullcontext() if with_adapter else model.disable_adapter():
            decoded = generate(model, tokenizer, [prompts[index] for index in indexes])
        texts.update(zip(indexes, decoded, strict=True))
        print(f"{label}: {len(texts)}/{len(prompts)} answers", flush=True)
    return [texts[index] for index in range(len(prompts))]


def generate(model: Any, tokenizer: Any, prompts: list[list[int]]) -> list[str]:
    input_ids = pad_left(prompts, tokenizer.pad_token_id)
    mask = pad_left([[1] * len(prompt) for prompt in prompts], 0)
    with torch.inference_mode():
        output = model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
        )
    texts: list[str] = tokenizer.batch_decode(
        output[:, input_ids.shape[1] :], skip_special_tokens=True
    )
    return texts


def wilson_interval(successes: int, count: int, z: float = 1.96) -> list[float]:
    """95 % interval of a proportion; unlike the plain normal one it holds near 0 and 1."""
    share = successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    half /= 1 + z * z / count
    return [round(max(0.0, centre - half), 4), round(min(1.0, centre + half), 4)]
