"""The base model, its tokenizer and batches for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

TARGET_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IGNORED = -100


class ModelError(Exception):
    """The base model or the adapter cannot be used."""


@dataclass(frozen=True)
class Example:
    prompt: list[int]
    answer: list[int]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.answer)


def load_base(directory: Path) -> tuple[Any, Any]:
    """Model in float32 (gradients need it, and CPUs are quickest there) and tokenizer."""
    if not (directory / "config.json").is_file():
        raise ModelError(f"no model in {directory}; run examples/prepare_model.py {directory}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load {directory}: {first_line(error)}") from error
    return model, tokenizer


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def add_adapter(base: Any, rank: int, alpha: int) -> Any:
    # Without dropout nothing is random after this point except the order of the data, which
    # follows from seed and step; that is what makes resuming exact.
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=TARGET_MODULES,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, config)


def load_adapter(base: Any, directory: Path) -> Any:
    if not (directory / "adapter_model.safetensors").is_file():
        raise ModelError(f"no adapter_model.safetensors in {directory}")
    try:
        return PeftModel.from_pretrained(base, directory, use_safetensors=True).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"cannot load {directory}: {first_line(error)}") from error


def example_of(tokenizer: Any, prompt: str, answer: str) -> Example:
    """Token ids of both; only the answer and the end after it are trained on."""
    return Example(
        tokenizer(prompt, add_special_tokens=False).input_ids,
        [*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id],
    )


def pad_left(rows: Sequence[list[int]], filler: int) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[filler] * (width - len(row)) + row for row in rows])


def answer_loss(model: Any, examples: Sequence[Example], pad_id: int) -> tuple[Tensor, int]:
    """Sum of the answer tokens' losses, and their number.

    Padding on the left puts the answers at the end of the rows, so that the output layer, a
    fifth of the work, is needed for those few positions only.
    """
    rows = [example.prompt + example.answer for example in examples]
    input_ids = pad_left(rows, pad_id)
    mask = pad_left([[1] * len(row) for row in rows], 0)
    labels = pad_left([example.answer for example in examples], IGNORED)
    kept = labels.shape[1] + 1
    output = model(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        logits_to_keep=kept,
    )
    logits = output.logits[:, :-1].flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(
        logits, labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return loss, sum(len(example.answer) for example in examples)
