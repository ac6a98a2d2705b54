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
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList


@dataclass(frozen=True)
class Decoding:
    """`base`, `greedy`, or `cold` with alpha and beta."""

    name: str
    alpha: float = 0.1
    beta: float = 0.5


@dataclass(frozen=True)
class Beams:
    """Settings of transformers' beam search; `early_stopping` is true, false or never."""

    width: int
    length_penalty: float
    early_stopping: str
    min_tokens: int = 0
    cold: Decoding | None = None  # alpha and beta if it ranks by the contrast


def distribution(expert: torch.Tensor, base: torch.Tensor, decoding: Decoding) -> torch.Tensor:
    """Log-probabilities [n, vocab] of the next token, from logits [n, vocab].

    Contrast shares out anew the expert's probability of the valid set.
    """
    if decoding.name == "base":
        return base.double().log_softmax(1)
    expert, base = expert.double(), base.double()
    probs = expert.softmax(1)
    if decoding.name == "greedy":
        return probs.log()
    valid = probs >= decoding.alpha * probs.max(1, keepdim=True).values * (1 - 1e-6)
    scores = expert + decoding.beta * (expert - base)
    contrast = scores.masked_fill(~valid, -math.inf).softmax(1)
    mass = probs.masked_fill(~valid, 0).sum(1, keepdim=True)
    return torch.where(valid, mass * contrast, probs).log()


class Reference:
    """Decodes greedily; remembers what it has decoded already."""

    def __init__(self, base_model: Path, adapter: Path) -> None:
        base = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
        self._model: Any = PeftModel.from_pretrained(base, adapter).eval()
        eos = base.generation_config.eos_token_id
        self.eos = set(eos if isinstance(eos, list) else [eos])
        self._known: dict[tuple[tuple[int, ...], Decoding | Beams, int], list[int]] = {}

    def decode(self, ids: tuple[int, ...], decoding: Decoding, count: int) -> list[int]:
        """The tokens after the prompt, an end-of-sequence token included."""
        key = (ids, decoding, count)
        if key not in self._known:
            self._known[key] = self._decode(ids, decoding, count)
        return self._known[key]

    @torch.inference_mode()
    def search(self, ids: tuple[int, ...], beams: Beams, count: int) -> list[int]:
        """transformers' beam search over the expert; by the contrast through a processor."""
        key = (ids, beams, count)
        if key not in self._known:
            contrast = _Contrast(self._model, beams.cold, len(ids)) if beams.cold else None
            stopping = {"true": True, "false": False}.get(beams.early_stopping, "never")
            self._known[key] = self._model.generate(
                input_ids=torch.tensor([ids]),
                num_beams=beams.width,
                do_sample=False,
                length_penalty=beams.length_penalty,
                early_stopping=stopping,
                min_new_tokens=beams.min_tokens,
                max_new_tokens=count,
                logits_processor=LogitsProcessorList([contrast] if contrast else []),
            )[0, len(ids) :].tolist()
        return self._known[key]

    def logits(self, ids: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Expert's and base's logits after the prompt, [vocab] each."""
        expert, base = self.all_logits(ids)
        return expert[-1], base[-1]

    @torch.inference_mode()
    def all_logits(self, ids: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Expert's and base's logits after each token, [n, vocab] each."""
        tokens = torch.tensor([ids])
        expert = self._model(tokens).logits[0]
        with self._model.disable_adapter():
            return expert, self._model(tokens).logits[0]

    @torch.inference_mode()
    def _decode(self, ids: tuple[int, ...], decoding: Decoding, count: int) -> list[int]:
        expert_cache = base_cache = None
        feed = torch.tensor([ids])
        output: list[int] = []
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


class _Contrast(LogitsProcessor):
    """In place of the expert's log-probabilities, those of the contrast over the valid set."""

    def __init__(self, model: Any, decoding: Decoding, prompt_length: int) -> None:
        self._model, self._decoding, self._prompt_length = model, decoding, prompt_length

    def __call__(self, ids: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
        with self._model.disable_adapter():
            base = self._model(ids).logits[:, -1].log_softmax(1)
        scores = log_probs + self._decoding.beta * (log_probs - base)
        best = log_probs.max(dim=1, keepdim=True).values
        scores[log_probs < best + math.log(self._decoding.alpha)] = -math.inf
        scores = scores.log_softmax(1)
        if ids.shape[1] == self._prompt_length:
            # All beams are still the same; transformers tells them apart by a very low score only,
            # which is not enough where the first has few valid tokens.
            scores[1:] = -math.inf
        return scores
