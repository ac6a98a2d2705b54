"""The study's items and rules."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from equations.data import normalise
from finetuning.model import Example

from study import base_nine, likelihood, rules, run, search, tasks, word_problems

WORD_PROBLEMS = Path(__file__).parents[2] / "examples/data/word_problems"


@pytest.fixture(scope="module")
def chains() -> dict[str, list[dict[str, str]]]:
    return word_problems.chains(WORD_PROBLEMS)


def test_a_chain_has_one_sentence_for_each_operation() -> None:
    sentences, value = word_problems.steps_of("* number0 + number1 2.0", (3.0, 4.5)) or ([], 0)
    assert sentences == ["4.5 + 2 = 6.5.", "3 * 6.5 = 19.5."]
    assert value == 19.5
    assert word_problems.steps_of("/ number0 0.0", (3.0,)) is None
    assert word_problems.steps_of("+ number0", (3.0,)) is None


def test_chains_end_with_the_answer(chains: dict[str, list[dict[str, str]]]) -> None:
    for item in chains["train"]:
        assert item["completion"].endswith(f"The answer is {item['answer']}.")
        assert "number" not in item["completion"]


def test_no_question_is_in_two_splits(chains: dict[str, list[dict[str, str]]]) -> None:
    seen: dict[str, str] = {}
    for split, items in chains.items():
        for item in items:
            assert seen.setdefault(normalise(item["prompt"]), split) == split
    assert len(chains["test"]) >= 500


def test_sums_are_in_base_nine() -> None:
    splits = base_nine.splits()
    for item in (item for items in splits.values() for item in items):
        left, right = re.findall(r"\d+", item["prompt"])
        assert int(item["answer"], 9) == int(left, 9) + int(right, 9)
        *sums, last = item["completion"].strip().split(". ")
        assert last == f"The answer is {item['answer']}."
        for terms, total in (text.split(" = ") for text in sums):
            assert sum(int(term, 9) for term in terms.split(" + ")) == int(total, 9)
    prompts = [item["prompt"] for items in splits.values() for item in items]
    assert len(set(prompts)) == len(prompts) and len(splits["test"]) >= 500


def view(expert: torch.Tensor, base: torch.Tensor) -> rules.View:
    return rules.View.of(expert, base, torch.zeros(len(expert), dtype=torch.bool), False)


def test_cold_is_the_published_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    expert, base = 4 * torch.randn(2, 200, 400, generator=generator)
    seen = view(expert, base)
    for beta, alpha in ((0.5, 0.1), (2.0, 0.05), (-0.5, 0.3)):
        score = (1 + beta) * expert - beta * base
        cutoff = math.log(alpha) + expert.max(-1, keepdim=True).values
        expected = score.masked_fill(expert < cutoff, -math.inf).argmax(-1)
        places = rules.cold(beta, alpha)(seen)
        assert seen.ids.gather(-1, places[:, None])[:, 0].equal(expected)


@pytest.mark.parametrize("name", rules.every())
def test_rules_stay_in_the_valid_set(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    expert, base = 4 * torch.randn(2, 50, 400, generator=generator)
    seen = view(expert, base)
    places = rules.every()[name](seen)
    alpha = 0.01 if "a=0.01" in name else 0.1
    assert seen.valid(alpha).gather(-1, places[:, None]).all()


class Fixed:
    """A network whose logits are known."""

    def __init__(self, logits: torch.Tensor) -> None:
        self._logits = logits

    def read(self, rows: list[list[int]], pad: int, last: int) -> torch.Tensor:
        return self._logits[None, -last:].expand(len(rows), -1, -1)


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0])
def test_likelihood_finds_how_far_an_adapter_falls_short(scale: float) -> None:
    """Answers drawn from base + change; an expert with a part of the change needs the rest."""
    generator = torch.Generator().manual_seed(0)
    base, change = torch.randn(2, 4000, 20, generator=generator)
    drawn = torch.multinomial((base + change).softmax(-1), 1, generator=generator)[:, 0]
    pair = SimpleNamespace(
        base=Fixed(base),
        expert=Fixed(base + scale * change),
        tokenizer=SimpleNamespace(pad_token_id=0),
    )
    found = likelihood.losses(pair, [Example([1], drawn.tolist())], 1)  # type: ignore[arg-type]
    best = likelihood.BETAS[found.index(min(found))]
    assert best == pytest.approx(1 / scale - 1, abs=0.15)


def test_the_plan_can_be_run() -> None:
    for cell in run.PLAN:
        assert {cell.task, cell.other or cell.task} <= set(tasks.TASKS)
        assert cell.rules in search.SETS
        assert not cell.tested or "greedy" in search.chosen_rules(cell.tested)


def test_one_training_run_gives_all_that_the_plan_needs() -> None:
    for cell in run.PLAN:
        for task in {cell.task, cell.other or cell.task}:
            assert {*cell.steps} <= {*run.snapshots(task, cell.base)}
