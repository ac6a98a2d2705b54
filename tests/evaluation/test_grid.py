"""The grid's answers are those of each of its points decoded alone, on the real model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from cold_eval.choices import token_log_prob
from cold_eval.decodings import BASE, GREEDY, cold, decodings_of, grid
from cold_eval.in_process import InProcess
from cold_eval.items import Item, Task
from cold_eval.policies import policy_of, views
from cold_eval.results import Result
from tests.reference import Decoding as ReferenceDecoding
from tests.reference import Reference

ALPHAS, BETAS = (0.05, 0.3), (0.5, 3.0)
LENGTH = 16
TEXTS = (
    "The capital of France is",
    "A farmer has 12 cows and sells 5 of them. How many",
    "def add(a, b):",
    "Once upon a time there was",
)
TASK = Task(
    "texts",
    tuple(Item(f"text{number}", text, "") for number, text in enumerate(TEXTS)),
    "exact",
    LENGTH,
)


@pytest.fixture(scope="module")
def model(base_model: Path, adapter: Path) -> InProcess:
    return InProcess(base_model, adapter, dtype="float32", max_context=512, max_sequences=4)


def answers(results: list[Result]) -> dict[tuple[str, str], Result]:
    return {(result.item, name): result for result in results for name in result.decodings}


def test_every_point_is_decoded_as_if_alone(model: InProcess, reference: Reference) -> None:
    points = [GREEDY, *grid(ALPHAS, BETAS)]
    policies = {point.name: policy_of(point) for point in points}
    wanted = {item.id: [*policies] for item in TASK.items}
    leaves = {
        (walk.key, policy.name): leaf
        for walk in model.walk(TASK, TASK.items, policies, wanted)
        for leaf in walk.leaves
        for policy in leaf.policies
    }
    assert len(leaves) == len(TEXTS) * len(points)
    different = {leaf.ids.__repr__() for leaf in leaves.values()}
    assert 2 * len(TEXTS) < len(different) < len(leaves)  # some part, some agree
    for item in TASK.items:
        ids = tuple(model.tokenizer.encode(str(item.prompt)))
        for point in points:
            alone = ReferenceDecoding(
                "greedy" if point == GREEDY else "cold", point.alpha or 0.1, point.beta or 0.5
            )
            expected = reference.decode(ids, alone, LENGTH)
            assert leaves[item.id, point.name].ids == expected, (item, point)


def test_one_answer_records_what_the_models_say(model: InProcess, reference: Reference) -> None:
    point = cold(0.05, 3.0)
    wanted = {TASK.items[0].id: [point.name]}
    (result,) = model.run(TASK, [point], wanted)
    prompt = model.tokenizer.encode(str(TASK.items[0].prompt))
    output = reference.decode(tuple(prompt), ReferenceDecoding("cold", 0.05, 3.0), LENGTH)
    contested = 0
    for at, token in enumerate(output):
        expert, base = reference.logits((*prompt, *output[:at]))
        assert result.expert[at] == pytest.approx(float(expert.log_softmax(0)[token]), abs=5e-3)
        assert result.base[at] == pytest.approx(float(base.log_softmax(0)[token]), abs=5e-3)
        assert (at in result.changed) == (int(expert.argmax()) != token)
        contested += int((expert >= expert.max() + math.log(0.05)).sum()) > 1
    assert result.decodings == {point.name: contested}
    assert "".join(result.pieces) == result.text
    assert result.changed


def test_other_decodings_are_those_of_the_engine(model: InProcess, reference: Reference) -> None:
    wanted = {item.id: [BASE.name] for item in TASK.items[:2]}
    found = answers([*model.run(TASK, [BASE], wanted)])
    for item in TASK.items[:2]:
        ids = tuple(model.tokenizer.encode(str(item.prompt)))
        expected = reference.decode(ids, ReferenceDecoding("base"), LENGTH)
        assert found[item.id, "base"].text == model.tokenizer.decode(expected)


def test_choices_get_the_log_probabilities_of_their_tokens(
    model: InProcess, reference: Reference
) -> None:
    choices = ("Paris", "London, of course", "a city")
    item = Item("capital", "The capital of France is", "0", choices)
    task = Task("choice", (item,), "choice")
    point = cold(0.1, 0.5)
    decodings = [BASE, GREEDY, point]
    wanted = {"capital": [d.name for d in decodings]}
    found = answers([*model.run(task, decodings, wanted)])
    prompt = model.tokenizer.encode(str(item.prompt))
    for place, choice in enumerate(choices):
        ids, sums = prompt, torch.zeros(3, dtype=torch.float64)
        for token in model.tokenizer.encode_bare(f" {choice}"):
            expert, base = (logits.double() for logits in reference.logits(tuple(ids)))
            sums += torch.stack(
                [
                    base.log_softmax(0)[token],
                    expert.log_softmax(0)[token],
                    _cold(expert, base)[token],
                ]
            )
            ids = [*ids, token]
        for decoding, total in zip(decodings, sums.tolist(), strict=True):
            log_prob = found["capital", decoding.name].choices[place]
            assert log_prob == pytest.approx(total, abs=2e-3), (choice, decoding)
    assert found["capital", "greedy"].text == "Paris"


def test_the_contrastive_distribution_is_one(reference: Reference, model: InProcess) -> None:
    ids = model.tokenizer.encode("The capital of France is")
    expert, base = reference.logits(tuple(ids))
    (view,) = views(expert[None], base[None], 0.01)
    for decoding in (cold(0.01, 2.0), cold(0.2, 0.5)):
        probs = [math.exp(token_log_prob(view, t, decoding)) for t in range(len(expert))]
        assert sum(probs) == pytest.approx(1, abs=1e-4)
    for decoding in (cold(1.0, 2.0), cold(0.2, 0.0)):
        for token in view.ids.tolist():
            assert token_log_prob(view, token, decoding) == pytest.approx(
                token_log_prob(view, token, GREEDY), abs=1e-4
            )


def _cold(expert: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """The distribution of choices.py for alpha 0.1 and beta 0.5, over the whole vocabulary."""
    probs = expert.softmax(0)
    valid = probs >= 0.1 * probs.max()
    contrast = (expert + 0.5 * (expert - base)).masked_fill(~valid, -math.inf).softmax(0)
    return torch.where(valid, probs[valid].sum() * contrast, probs).log()


def test_samples_vote_and_are_the_same_in_every_run(model: InProcess) -> None:
    *_, vote = decodings_of(["vote5"], alphas=(), betas=(), temperature=1.2)
    item = Item("sum", "2 + 2 =", "4")
    task = Task("sums", (item,), "last_number", 6)
    first, second = ([*model.run(task, [vote], {"sum": [vote.name]})] for _ in range(2))
    assert first == second
    votes = first[0].votes
    assert 0 < sum(votes.values()) <= 5
    assert votes[str(first[0].answer)] == max(votes.values())
