"""What is asked of the server: a seeded mix of real prompts, lengths, adapters and bad habits."""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cold_client import Request

_PROBLEMS = Path(__file__).parent.parent / "examples/data/word_problems/dev.csv"
PROTOCOLS = ("grpc", "sse", "generate")

# Each is refused, and the refusal names the field.
BAD_INPUTS: tuple[dict[str, Any], ...] = (
    {"alpha": 7.0},
    {"beta": -1.0},
    {"beam_width": 4},
    {"max_tokens": 1_000_000},
    {"text_input": ""},
    {"top_p": 0.0},
    {"lora_name": "../adapter"},
    {"deadline_s": 0.0},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Shares of what is asked; each group's need not add up to one.

    Attributes:
        grpc, sse, generate: of the protocols.
        bad_input: of all requests.
        hang_up: of the streamed ones.
        give_up: of all, those whose client waits for up to a second only.
        min_tokens, max_tokens: bounds of the output.
        max_problems: of a prompt, at most 5.
    """

    grpc: float = 2
    sse: float = 1
    generate: float = 1
    bad_input: float = 0.05
    hang_up: float = 0.05
    give_up: float = 0.0
    min_tokens: int = 4
    max_tokens: int = 64
    max_problems: int = 5

    def __post_init__(self) -> None:
        if min(self.grpc, self.sse, self.generate) < 0 or not self.grpc + self.sse + self.generate:
            raise ValueError("mix: shares must not be negative, and not all 0")
        for name in ("bad_input", "hang_up", "give_up"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: must be between 0 and 1, got {getattr(self, name)}")
        if not 1 <= self.min_tokens <= self.max_tokens:
            raise ValueError("min_tokens: must be between 1 and max_tokens")
        if not 1 <= self.max_problems <= 5:
            raise ValueError(f"max_problems: must be between 1 and 5, got {self.max_problems}")


@dataclass(frozen=True, slots=True)
class Call:
    """A request, how it is sent, and what should come of it.

    Attributes:
        bad_field: the field that the refusal must name; None for a good request.
        hangs_up: whether the client leaves after the first piece.
        patience_s: how long the client waits before it gives up; None for as long as it takes.
    """

    protocol: str
    request: Request
    bad_field: str | None = None
    hangs_up: bool = False
    patience_s: float | None = None


class Workload:
    """An endless sequence of calls, the same for the same seed.

    Args:
        mix: shares.
        adapters: names that the server serves.
        seed: of this user.
        slo: limits of TTFT and ITL from which each request's deadline follows; None for none.
    """

    def __init__(
        self,
        mix: Mix,
        adapters: Sequence[str],
        seed: int,
        slo: Mapping[str, float] | None = None,
    ) -> None:
        self._mix = mix
        self._slo = slo
        self._adapters = adapters
        self._chance = random.Random(seed)
        with _PROBLEMS.open(newline="") as file:
            self._problems = [row["Question"] for row in csv.DictReader(file)]

    def next(self) -> Call:
        """The next call."""
        chance, mix = self._chance, self._mix
        shares = [getattr(mix, protocol) for protocol in PROTOCOLS]
        protocol = chance.choices(PROTOCOLS, shares)[0]
        problems = min(chance.choice((1, 1, 2, 5)), mix.max_problems)
        fields: dict[str, Any] = {
            "text_input": " ".join(chance.sample(self._problems, problems)),
            "decoding": chance.choice(["cold", "cold", "greedy", "base"]),
            "lora_name": chance.choice([None, *self._adapters]),
            "max_tokens": chance.randint(mix.min_tokens, mix.max_tokens),
            "temperature": chance.choice([0.0, 0.0, 0.8]),
            "ignore_eos": True,
            "return_num_output_tokens": True,
            "seed": chance.getrandbits(32),
        }
        if self._slo:
            limit_ms = self._slo["ttft_ms"] + self._slo["itl_ms"] * (fields["max_tokens"] - 1)
            fields["deadline_s"] = limit_ms / 1000
        if chance.random() < mix.bad_input:
            bad = chance.choice(BAD_INPUTS)
            return Call(protocol, Request(**fields | bad), bad_field=next(iter(bad)))
        leaves = protocol != "generate" and chance.random() < mix.hang_up
        patience_s = chance.uniform(0.01, 1) if chance.random() < mix.give_up else None
        return Call(protocol, Request(**fields), hangs_up=leaves, patience_s=patience_s)
