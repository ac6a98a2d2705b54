"""What is asked of the server: a seeded mix of real prompts, lengths, adapters and bad habits."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
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
    {"decoding": "beam"},
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
        min_tokens, max_tokens: bounds of the output.
    """

    grpc: float = 2
    sse: float = 1
    generate: float = 1
    bad_input: float = 0.05
    hang_up: float = 0.05
    min_tokens: int = 4
    max_tokens: int = 64

    def __post_init__(self) -> None:
        if min(self.grpc, self.sse, self.generate) < 0 or not self.grpc + self.sse + self.generate:
            raise ValueError("mix: shares must not be negative, and not all 0")
        for name in ("bad_input", "hang_up"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: must be between 0 and 1, got {getattr(self, name)}")
        if not 1 <= self.min_tokens <= self.max_tokens:
            raise ValueError("min_tokens: must be between 1 and max_tokens")


@dataclass(frozen=True, slots=True)
class Call:
    """A request, how it is sent, and what should come of it.

    Attributes:
        bad_field: the field that the refusal must name; None for a good request.
        hangs_up: whether the client leaves after the first piece.
    """

    protocol: str
    request: Request
    bad_field: str | None = None
    hangs_up: bool = False


class Workload:
    """An endless sequence of calls, the same for the same seed.

    Args:
        mix: shares.
        adapters: names that the server serves.
        seed: of this user.
    """

    def __init__(self, mix: Mix, adapters: Sequence[str], seed: int) -> None:
        self._mix = mix
        self._adapters = adapters
        self._chance = random.Random(seed)
        with _PROBLEMS.open(newline="") as file:
            self._problems = [row["Question"] for row in csv.DictReader(file)]

    def next(self) -> Call:
        """The next call."""
        chance, mix = self._chance, self._mix
        shares = [getattr(mix, protocol) for protocol in PROTOCOLS]
        protocol = chance.choices(PROTOCOLS, shares)[0]
        fields: dict[str, Any] = {
            "text_input": " ".join(chance.sample(self._problems, chance.choice((1, 1, 2, 5)))),
            "decoding": chance.choice(["cold", "cold", "greedy", "base"]),
            "lora_name": chance.choice([None, *self._adapters]),
            "max_tokens": chance.randint(mix.min_tokens, mix.max_tokens),
            "temperature": chance.choice([0.0, 0.0, 0.8]),
            "ignore_eos": True,
            "return_num_output_tokens": True,
            "seed": chance.getrandbits(32),
        }
        if chance.random() < mix.bad_input:
            bad = chance.choice(BAD_INPUTS)
            return Call(protocol, Request(**fields | bad), bad_field=next(iter(bad)))
        leaves = protocol != "generate" and chance.random() < mix.hang_up
        return Call(protocol, Request(**fields), hangs_up=leaves)
