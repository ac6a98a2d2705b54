"""Decodes items under many rules at once: what rules say alike is computed once.

Each row is a prefix that one or more rules share. Where they part, the row is copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from finetuning.model import load_adapter, load_base, pad_left
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import DynamicCache

from study.rules import Rule, View


@dataclass
class Counts:
    """Steps of the first rule (greedy), and those where it had a choice at alpha 0.1."""

    steps: int = 0
    contested: int = 0
    forwards: int = 0


@dataclass
class Row:
    item: int
    rules: list[str]
    tokens: list[int] = field(default_factory=list)


class Network:
    """A model and the cache of its rows."""

    def __init__(self, model: Any) -> None:
        self._model = model.eval()
        self._cache = DynamicCache()

    def start(self, prompts: Sequence[list[int]], pad: int) -> Tensor:
        self._cache = DynamicCache()
        self._mask = pad_left([[1] * len(prompt) for prompt in prompts], 0)
        positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        return self._forward(pad_left(prompts, pad), positions)

    def step(self, parents: list[int], tokens: list[int]) -> Tensor:
        """Logits after one more token in each row; a row may go on in several, or end."""
        if parents != list(range(len(self._mask))):
            index = torch.tensor(parents)
            self._cache.reorder_cache(index)
            self._mask = self._mask[index]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(parents), 1)], 1)
        return self._forward(torch.tensor(tokens)[:, None], self._mask.sum(1, keepdim=True) - 1)

    def read(self, rows: Sequence[list[int]], pad: int, last: int) -> Tensor:
        """Logits [R, last, V] that predict the last tokens of whole rows."""
        mask = pad_left([[1] * len(row) for row in rows], 0)
        output = self._model(
            input_ids=pad_left(rows, pad),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=last + 1,
        )
        logits: Tensor = output.logits[:, :-1]
        return logits

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        output = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits


class Pair:
    """Expert and base, and the tokenizer of both."""

    def __init__(self, base: Path, adapter: Path, scale: float = 1.0, bf16: bool = False) -> None:
        dtype = torch.bfloat16 if bf16 else torch.float32
        model, self.tokenizer = load_base(base)
        self.base = Network(model.to(dtype))
        copy, _ = load_base(base)
        tuned = load_adapter(copy, adapter)
        for module in tuned.modules():
            if isinstance(module, LoraLayer):
                module.set_scale("default", scale)
        self.expert = Network(tuned.merge_and_unload().to(dtype))
        self._answer = tuple(self.tokenizer(" answer is", add_special_tokens=False).input_ids)

    def answering(self, row: Row) -> bool:
        size = len(self._answer)
        places = range(len(row.tokens) - size + 1)
        return any(tuple(row.tokens[at : at + size]) == self._answer for at in places)


@torch.inference_mode()
def decode(
    pair: Pair,
    prompts: Sequence[list[int]],
    rules: Mapping[str, Rule],
    max_tokens: int,
    counts: Counts,
) -> list[dict[str, list[int]]]:
    """For each prompt the new tokens by rule, without the end."""
    end, pad = pair.tokenizer.eos_token_id, pair.tokenizer.pad_token_id
    rows = [Row(item, list(rules)) for item in range(len(prompts))]
    results: list[dict[str, list[int]]] = [{} for _ in prompts]
    expert, base = pair.expert.start(prompts, pad), pair.base.start(prompts, pad)
    for position in range(max_tokens):
        flags = torch.tensor([pair.answering(row) for row in rows])
        view = View.of(expert, base, flags, position == 0)
        count(counts, view, rows, next(iter(rules)))
        parents, grown = grow(view, rows, rules)
        alive = []
        for parent, row in zip(parents, grown, strict=True):
            if row.tokens[-1] == end or position == max_tokens - 1:
                tokens = row.tokens[:-1] if row.tokens[-1] == end else row.tokens
                results[row.item].update(dict.fromkeys(row.rules, tokens))
            else:
                alive.append((parent, row))
        if not alive:
            break
        parents, rows = [parent for parent, _ in alive], [row for _, row in alive]
        last = [row.tokens[-1] for row in rows]
        expert, base = pair.expert.step(parents, last), pair.base.step(parents, last)
    return results


def count(counts: Counts, view: View, rows: list[Row], name: str) -> None:
    mine = torch.tensor([name in row.rules for row in rows])
    counts.steps += int(mine.sum())
    counts.contested += int((view.valid(0.1).sum(-1)[mine] > 1).sum())
    counts.forwards += len(rows)


def grow(view: View, rows: list[Row], rules: Mapping[str, Rule]) -> tuple[list[int], list[Row]]:
    """Rows one token longer, and which row each came from."""
    chosen = {}
    for name, rule in rules.items():
        places = rule(view)
        ids = view.ids.gather(-1, places.clamp(min=0)[:, None])[:, 0]
        chosen[name] = torch.where(places < 0, view.base_best, ids).tolist()
    parents, grown = [], []
    for place, row in enumerate(rows):
        branches: dict[int, list[str]] = {}
        for name in row.rules:
            branches.setdefault(chosen[name][place], []).append(name)
        for token, names in branches.items():
            parents.append(place)
            grown.append(Row(row.item, names, [*row.tokens, token]))
    return parents, grown
