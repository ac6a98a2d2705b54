"""Inputs of the ops, seeded, and how far an implementation may be from the reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cold_kernels import Mode

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Absolute error of a log-probability or score: the reference sums exponentials in float32; the
# others may be as much less exact as the logits are.
LOG_PROB_TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-4, torch.float16: 2e-4}
# Keys that differ by less count as tied: what rounding may turn around.
TIE_MARGIN = 1e-5
# Error of y after lora_apply, relative to its size: one rounding, and sums in another order.
LORA_TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}


@dataclass(frozen=True)
class Contrast:
    """Inputs of contrast_select and contrast_scores."""

    expert: Tensor  # [R, V]
    base: Tensor  # [R, V]
    mode: Tensor  # [R]
    alpha: Tensor  # [R]
    beta: Tensor  # [R]
    temperature: Tensor  # [R]
    key: Tensor | None  # [R, 2]

    @property
    def settings(self) -> dict[str, Any]:
        """The keyword arguments of contrast_select."""
        return {**self.scoring, "temperature": self.temperature, "key": self.key}

    @property
    def scoring(self) -> dict[str, Tensor]:
        """The keyword arguments of contrast_scores."""
        return {"mode": self.mode, "alpha": self.alpha, "beta": self.beta}

    def settings_on(self, device: torch.device) -> dict[str, Any]:
        """The same on a device."""
        return {k: None if v is None else v.to(device) for k, v in self.settings.items()}


def contrast(
    rows: int,
    vocab: int,
    dtype: torch.dtype,
    *,
    seed: int = 0,
    modes: tuple[Mode, ...] = tuple(Mode),
    alpha: float = 0.1,
    beta: float = 0.5,
    temperature: float = 0.0,
) -> Contrast:
    """Random logits; the modes take turns, and so does the temperature with 0."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, rows, vocab, generator=generator) * 4
    key = torch.randint(-(2**31), 2**31, (rows, 2), generator=generator).int()
    return Contrast(
        expert=logits[0].to(dtype),
        base=logits[1].to(dtype),
        mode=torch.tensor([modes[row % len(modes)] for row in range(rows)], dtype=torch.int32),
        alpha=torch.full((rows,), alpha),
        beta=torch.full((rows,), beta),
        temperature=torch.tensor([temperature * (row % 4 != 3) for row in range(rows)]),
        key=key if temperature else None,
    )


@dataclass(frozen=True)
class Lora:
    """Inputs of lora_apply."""

    y: Tensor  # [T, M]
    x: Tensor  # [T, N]
    a: Tensor  # [L, K, N]
    b: Tensor  # [L, K, M]
    scale: Tensor  # [L]
    rank: Tensor  # [L]
    index: Tensor  # [A, T]
    strength: Tensor  # [A, T]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The keyword arguments."""
        names = ("a", "b", "scale", "rank", "index", "strength")
        return {name: getattr(self, name) for name in names}


def lora(
    tokens: int,
    inputs: int,
    outputs: int,
    ranks: tuple[int, ...],
    dtype: torch.dtype,
    *,
    seed: int = 0,
    each: int = 1,
) -> Lora:
    """Random adapters of the given ranks; a token uses up to `each` in any strength, or none."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    a = normal(len(ranks), max(ranks), inputs) / inputs**0.5
    b = normal(len(ranks), max(ranks), outputs) / max(ranks) ** 0.5
    for adapter, rank in enumerate(ranks):
        a[adapter, rank:], b[adapter, rank:] = 0, 0
    size = (each, tokens)
    index = torch.randint(-1, len(ranks), size, generator=generator, dtype=torch.int32)
    return Lora(
        y=normal(tokens, outputs).to(dtype),
        x=normal(tokens, inputs).to(dtype),
        a=a.to(dtype),
        b=b.to(dtype),
        scale=torch.rand(len(ranks), generator=generator) + 0.5,
        rank=torch.tensor(ranks, dtype=torch.int32),
        index=index,
        strength=strengths(size, generator),
    )


def strengths(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """[A, T] factors of tokens' adapters, from none to far beyond what they were trained for."""
    values = torch.tensor([0.0, 0.5, 1.0, 2.5, 8.0])
    return values[torch.randint(len(values), size, generator=generator)]
