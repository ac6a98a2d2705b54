"""CoLD the slow and obvious way: transformers and PEFT, two forwards a token, float32.

Shares no code with cold_backend or cold_kernels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


@dataclass(frozen=True)
class Decoding:
    """`base`, `greedy`, or `cold` with alpha and beta."""

    name: str
    alpha: float = 0.1
    beta: float = 0.5


class Reference:
    """Decodes greedily; remembers what it has decoded already."""

    def __init__(self, base_model: Path, adapter: Path) -> None:
        base = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
        self._model: Any = PeftModel.from_pretrained(base, adapter).eval()
        eos = base.generation_config.eos_token_id
        self.eos = set(eos if isinstance(eos, list) else [eos])
        self._known: dict[tuple[tuple[int, ...], Decoding, int], list[int]] = {}

    def decode(self, ids: tuple[int, ...], decoding: Decoding, count: int) -> list[int]:
        """The tokens after the prompt, an end-of-sequence token included."""
        key = (ids, decoding, count)
        if key not in self._known:
            self._known[key] = self._decode(ids, decoding, count)
        return self._known[key]

    @torch.inference_mode()
    def logits(self, ids: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Expert's and base's logits after the prompt, [vocab] each."""
        tokens = torch.tensor([ids])
        expert = self._model(tokens).logits[0, -1]
        with self._model.disable_adapter():
            return expert, self._model(tokens).logits[0, -1]

    @torch.inference_mode()
    def _decode(self, ids: tuple[int, ...], decoding: Decoding, count: int) -> list[int]:
        expert_cache = base_cache = None
        feed, output = torch.tensor([ids]), []
        while len(output) < count:
            if decoding.name != "base":
                out = self._model(feed, past_key_values=expert_cache, use_cache=True)
                expert, expert_cache = out.logits[0, -1], out.past_key_values
            if decoding.name != "greedy":
                with self._model.disable_adapter():
                    out = self._model(feed, past_key_values=base_cache, use_cache=True)
                base, base_cache = out.logits[0, -1], out.past_key_values
            if decoding.name == "cold":
                scores = (1 + decoding.beta) * expert - decoding.beta * base
                cutoff = math.log(decoding.alpha) + expert.max()
                scores = scores.masked_fill(expert < cutoff, -math.inf)
            else:
                scores = base if decoding.name == "base" else expert
            token = int(scores.argmax())
            output.append(token)
            if token in self.eos:
                break
            feed = torch.tensor([[token]])
        return output
