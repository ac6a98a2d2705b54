"""What the kernels are compared with: the same in eager PyTorch, in torch.compile, and in PEFT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import peft
import torch
from torch import Tensor, nn

from cold_kernels import Mode, Ops

Arm = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """Arms that do the same work, by name.

    Attributes:
        title: what is computed, on what shape.
        arms: `ours` among them.
        bytes: what must be read and written at least.
    """

    title: str
    arms: dict[str, Arm]
    bytes: int


def eager_contrast(expert: Tensor, base: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
    """CoLD as one writes it in PyTorch; expert, base [R, V], alpha, beta [R]."""
    e, a = expert.float(), base.float()
    e_log_probs, a_log_probs = e.log_softmax(-1), a.log_softmax(-1)
    valid = e >= e.max(-1, keepdim=True).values + alpha.log()[:, None]
    scores = (e + beta[:, None] * (e - a)).masked_fill(~valid, float("-inf"))
    token = scores.argmax(-1)
    at = token[:, None]
    return (
        token,
        scores.gather(1, at)[:, 0],
        e_log_probs.gather(1, at)[:, 0],
        a_log_probs.gather(1, at)[:, 0],
        valid.sum(-1),
        e.argmax(-1),
    )


def contrast(ops: Ops, rows: int, vocab: int, device: torch.device) -> Case:
    """contrast_select on bfloat16 logits."""
    torch.manual_seed(0)
    expert, base = (torch.randn(2, rows, vocab, device=device) * 4).bfloat16()
    alpha, beta = torch.full((2, rows), 0.1, device=device)
    settings = {
        "mode": torch.full((rows,), int(Mode.COLD), dtype=torch.int32, device=device),
        "alpha": alpha,
        "beta": beta,
        "temperature": torch.zeros(rows, device=device),
        "key": None,
    }
    compiled = torch.compile(eager_contrast, dynamic=False)
    return Case(
        f"contrast_select {rows} x {vocab}",
        {
            "ours": lambda: ops.contrast_select(expert, base, **settings),
            "eager": lambda: eager_contrast(expert, base, alpha, beta),
            "torch.compile": lambda: compiled(expert, base, alpha, beta),
        },
        2 * expert.nbytes,
    )


def lora(ops: Ops, rows: int, hidden: int, adapters: int, rank: int, device: torch.device) -> Case:
    """lora_apply on the output of a square bfloat16 layer, every row with one of the adapters.

    The arms `PEFT` and `layer` are the layer with and without PEFT's adapters: their difference is
    what compares with ours.
    """
    torch.manual_seed(0)
    layer = _peft_layer(hidden, adapters, rank).to(device, torch.bfloat16)
    names = [f"adapter{row % adapters}" for row in range(rows)]
    x = torch.randn(rows, hidden, device=device).bfloat16()
    y = layer.base_layer(x)
    weights = {
        "a": torch.stack([layer.lora_A[name].weight for name in names[:adapters]]),
        "b": torch.stack([layer.lora_B[name].weight.T for name in names[:adapters]]).contiguous(),
        "scale": torch.ones(adapters, device=device),
        "rank": torch.full((adapters,), rank, dtype=torch.int32, device=device),
        "index": torch.arange(rows, dtype=torch.int32, device=device)[None] % adapters,
        "strength": torch.ones((1, rows), device=device),
    }
    return Case(
        f"lora_apply {rows} rows, hidden {hidden}",
        {
            "ours": lambda: ops.lora_apply(y, x, **weights),
            "PEFT": lambda: layer(x, adapter_names=names),
            "layer": lambda: layer.base_layer(x),
        },
        weights["a"].nbytes + weights["b"].nbytes + x.nbytes + 2 * y.nbytes,
    )


def _peft_layer(hidden: int, adapters: int, rank: int) -> Any:
    model = nn.Sequential(nn.Linear(hidden, hidden, bias=False))
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=["0"], init_lora_weights=False)
    wrapped = peft.get_peft_model(model, config, adapter_name="adapter0")
    for adapter in range(1, adapters):
        wrapped.add_adapter(f"adapter{adapter}", config)
    return wrapped.base_model.model[0].eval().requires_grad_(False)
