"""The grid's answers are those of each of its points decoded alone, on the real model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from cold_backend.requests.request import GenerationRequest
from cold_eval.choices import token_log_prob
from cold_eval.decodings import BASE, GREEDY, Decoding, cold, decodings_of, grid, scaled
from cold_eval.in_process import InProcess
from cold_eval.items import Item, Task
from cold_eval.policies import policy_of, views
from cold_eval.results import Result
from tests.reference import Beams, Reference, distribution
from tests.reference import Decoding as ReferenceDecoding

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
    walks = [*model.walk(TASK, TASK.items, policies, wanted)]
    leaves = [(walk.key, leaf) for walk in walks for leaf in walk.leaves]
    assert 2 * len(TEXTS) < len(leaves) < len(TEXTS) * len(points)  # some part, some agree
    assert sorted((key, policy.name) for key, leaf in leaves for policy in leaf.policies) == sorted(
        (item.id, point.name) for item in TASK.items for point in points
    )
    prompts = {item.id: model.tokenizer.encode(str(item.prompt)) for item in TASK.items}
    by_name = {point.name: point for point in points}
    for key, leaf in leaves:
        assert len(leaf.ids) == LENGTH or leaf.ids[-1] in reference.eos
        assert not reference.eos & {*leaf.ids[:-1]}
        expert, base = seen(reference, prompts[key], leaf.ids)
        for policy in leaf.policies:
            assert chosen(expert, base, by_name[policy.name]) == leaf.ids, (key, policy)


def seen(
    reference: Reference, prompt: list[int], output: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [n, V] of expert and base before each token of an output."""
    expert, base = reference.all_logits((*prompt, *output[:-1]))
    return expert[len(prompt) - 1 :], base[len(prompt) - 1 :]


def chosen(expert: torch.Tensor, base: torch.Tensor, point: Decoding) -> list[int]:
    """What a point takes after each of the prefixes: its own output, if that is its output."""
    alpha, beta = point.alpha or 1.0, point.beta or 0.0
    cutoff = expert.max(dim=1, keepdim=True).values + math.log(alpha)
    scores = ((1 + beta) * expert - beta * base).masked_fill(expert < cutoff, -math.inf)
    return scores.argmax(1).tolist()


def test_one_answer_records_what_the_models_say(model: InProcess, reference: Reference) -> None:
    point = cold(0.05, 3.0)
    item = TASK.items[0]
    (walk,) = model.walk(TASK, [item], {point.name: policy_of(point)}, {item.id: [point.name]})
    (result,) = model.run(TASK, [point], {item.id: [point.name]})
    output = walk.leaves[0].ids
    expert, base = seen(reference, model.tokenizer.encode(str(item.prompt)), output)
    places = torch.arange(len(output)), torch.tensor(output)
    torch.testing.assert_close(
        torch.tensor(result.expert), expert.log_softmax(1)[places], rtol=0, atol=5e-3
    )
    torch.testing.assert_close(
        torch.tensor(result.base), base.log_softmax(1)[places], rtol=0, atol=5e-3
    )
    changed = expert.argmax(1) != places[1]
    assert result.changed == changed.nonzero()[:, 0].tolist() != []
    valid = (expert >= expert.max(dim=1, keepdim=True).values + math.log(0.05)).sum(1)
    assert result.decodings == {point.name: int((valid > 1).sum())}
    assert "".join(result.pieces) == result.text


def test_other_decodings_are_those_of_the_engine(model: InProcess, reference: Reference) -> None:
    item = TASK.items[0]
    ids = tuple(model.tokenizer.encode(str(item.prompt)))
    beam = decodings_of(["beam2"], alphas=(), betas=(), temperature=1)[-1]
    found = answers([*model.run(TASK, [BASE, beam], {item.id: ["base", "beam2"]})])
    base = reference.decode(ids, ReferenceDecoding("base"), LENGTH)
    assert found[item.id, "base"].text == model.tokenizer.decode(base)
    best = reference.search(ids, Beams(2, 1.0, "false"), LENGTH)
    assert found[item.id, "beam2"].text == model.tokenizer.decode(best)


@pytest.mark.parametrize("choices", [(), ("Paris", "Rome")], ids=["generated", "choices"])
def test_each_strength_of_the_adapter_is_a_tree_of_its_own(
    choices: tuple[str, ...], model: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = Item("capital", "The capital of France is", "0", choices)
    task = Task("t", (item,), "choice" if choices else "exact", 4)
    decodings = [GREEDY, cold(0.1, 0.5), *scaled([1.5, 2.0])]
    strengths = []
    ask = model._cold.request

    def noted(prompt: Any, **fields: object) -> GenerationRequest:
        request = ask(prompt, **fields)
        strengths.append(request.adapters[0][1])
        return request

    monkeypatch.setattr(model._cold, "request", noted)
    results = [*model.run(task, decodings, {item.id: [d.name for d in decodings]})]
    assert answers(results).keys() == {(item.id, d.name) for d in decodings}
    assert strengths == [1.0, 1.5, 2.0]


def test_strengths_are_those_of_the_reference(model: InProcess, reference: Reference) -> None:
    item = TASK.items[0]
    ids = tuple(model.tokenizer.encode(str(item.prompt)))
    decodings = scaled([0.5, 3.0])
    found = answers([*model.run(TASK, decodings, {item.id: [d.name for d in decodings]})])
    for decoding, strength in zip(decodings, (0.5, 3.0), strict=True):
        own = ReferenceDecoding("greedy", lora_scale=strength)
        expected = model.tokenizer.decode(reference.decode(ids, own, LENGTH))
        assert found[item.id, decoding.name].text == expected


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
        tokens = model.tokenizer.encode_bare(f" {choice}")
        expert, base = seen(reference, prompt, tokens)
        for decoding in decodings:
            of_reference = ReferenceDecoding(decoding.kind)  # alpha 0.1, beta 0.5
            log_probs = distribution(expert, base, of_reference)[range(len(tokens)), tokens]
            log_prob = found["capital", decoding.name].choices[place]
            assert log_prob == pytest.approx(float(log_probs.sum()), abs=2e-3), (choice, decoding)
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


def test_samples_vote_and_are_the_same_in_every_run(model: InProcess) -> None:
    *_, vote = decodings_of(["vote5"], alphas=(), betas=(), temperature=1.2)
    item = Item("sum", "2 + 2 =", "4")
    task = Task("sums", (item,), "last_number", 6)
    first, second = ([*model.run(task, [vote], {"sum": [vote.name]})] for _ in range(2))
    assert first == second
    votes = first[0].votes
    assert 0 < sum(votes.values()) <= 5
    assert votes[str(first[0].answer)] == max(votes.values())
