"""The method itself, on logits of the real model, against what was published."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cold_eval.policies import Contrast, views
from cold_kernels import Mode, Ops, load_ops
from tests.prompts import Prompt
from tests.reference import Reference

SETTINGS = [(alpha, beta) for alpha in (0.01, 0.1, 0.5, 1.0) for beta in (0.0, 0.25, 0.5, 1.0, 3.0)]


def published(expert_logits: Tensor, amateur_logits: Tensor, alpha: float, beta: float) -> Tensor:
    """Contrastive decoding as printed in O'Brien & Lewis, arXiv 2309.09117, appendix A.2."""
    cutoff = math.log(alpha) + expert_logits.max(dim=-1, keepdim=True).values
    diffs = (1 + beta) * expert_logits - beta * amateur_logits
    return diffs.masked_fill(expert_logits < cutoff, -float("inf"))


@pytest.fixture(scope="module")
def recorded(reference: Reference, prompts: list[Prompt]) -> tuple[Tensor, Tensor]:
    """Logits [n, V] of expert and base after every token of real prompts."""
    short = sorted(prompts, key=lambda prompt: len(prompt.ids))[:5]
    experts, bases = zip(*(reference.all_logits(prompt.ids) for prompt in short), strict=True)
    return torch.cat(experts), torch.cat(bases)


@pytest.fixture(params=["reference", "native"])
def ops(request: pytest.FixtureRequest) -> Ops:
    return load_ops(request.param, torch.device("cpu"))


@pytest.mark.parametrize(("alpha", "beta"), SETTINGS)
def test_the_product_chooses_what_was_published(
    alpha: float, beta: float, ops: Ops, recorded: tuple[Tensor, Tensor]
) -> None:
    expert, base = recorded
    rows = len(expert)
    selection = ops.contrast_select(
        expert,
        base,
        mode=torch.full((rows,), int(Mode.COLD), dtype=torch.int32),
        alpha=torch.full((rows,), alpha),
        beta=torch.full((rows,), beta),
        temperature=torch.zeros(rows),
        key=None,
    )
    scores = published(expert.double(), base.double(), alpha, beta)
    torch.testing.assert_close(selection.token, scores.argmax(1))
    torch.testing.assert_close(selection.score.double(), scores.max(1).values, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(selection.valid_count.long(), scores.isfinite().sum(1))


@pytest.mark.parametrize(("alpha", "beta"), SETTINGS)
def test_the_evaluation_scores_what_was_published(
    alpha: float, beta: float, recorded: tuple[Tensor, Tensor]
) -> None:
    expert, base = recorded
    for row, view in enumerate(views(expert, base, 0.01)):
        scores = published(expert[row].double(), base[row].double(), alpha, beta)
        mine = torch.from_numpy(Contrast("", alpha, beta).scores(view)).double()
        torch.testing.assert_close(mine, scores[torch.from_numpy(view.ids)], rtol=1e-5, atol=1e-4)
        assert int(view.ids[mine.argmax()]) == int(scores.argmax())


def test_contrast_matters_on_these_logits(recorded: tuple[Tensor, Tensor]) -> None:
    expert, base = recorded
    strong = published(expert, base, 0.01, 3.0).argmax(1)
    assert (strong != expert.argmax(1)).any()
    assert (published(expert, base, 0.1, 0.5).isfinite().sum(1) > 1).any()


def test_probabilities_are_the_published_ratio(recorded: tuple[Tensor, Tensor]) -> None:
    """In the valid set p is proportional to p_e * (p_e / p_a) ** beta."""
    expert, base = (logits.double() for logits in recorded)
    p_e, p_a = expert.softmax(1), base.softmax(1)
    valid = p_e >= 0.1 * p_e.max(1, keepdim=True).values
    ratio = torch.where(valid, p_e * (p_e / p_a) ** 0.5, 0.0)
    torch.testing.assert_close(
        published(expert, base, 0.1, 0.5).softmax(1), ratio / ratio.sum(1, keepdim=True)
    )
