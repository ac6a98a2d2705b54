"""Rows with bans, penalties and filters, against transformers' own processors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from cold_backend.contract import NONE, Reader, StepResult
from cold_backend.decoding.decode import decode
from cold_backend.requests.token import picked_tokens
from cold_kernels import Mode, load_ops
from tests.reference import Decoding, distribution
from tests.steps import choice_step, step_of

VOCAB = 60
OPS = load_ops("reference", torch.device("cpu"))
LOGITS = torch.randn(1, VOCAB, generator=torch.manual_seed(3)) * 2


def run(
    *, bans: Sequence[int] = (), counts: Mapping[int, int] | None = None, **columns: Any
) -> StepResult:
    """The decision of one choice between LOGITS and their mirror image."""
    step = choice_step(bans=bans, counts=counts, position=4, **columns)
    logits = {Reader.EXPERT: LOGITS, Reader.BASE: LOGITS.flip(1)}
    return decode(OPS, step, torch.cat([logits[reader] for reader in step.rows["reader"]]))


def token(result: StepResult) -> int:
    return int(result.picks["token"][0])


def log_probs(result: StepResult) -> list[float]:
    """The expert's, the base's, the decoding's."""
    (pick,) = result.picks
    return [pick[f"{of}_log_prob"] for of in ("expert", "base", "decoding")]


def test_banned_tokens_leave_before_the_valid_set_is_formed() -> None:
    order = LOGITS[0].argsort(descending=True).tolist()
    result = run(mode=Mode.COLD, bans=order[:5], alpha=1.0)
    assert token(result) == order[5]
    assert result.picks["valid_count"][0] == 1
    untouched = LOGITS[0].log_softmax(0)[order[5]]
    assert log_probs(result)[0] == pytest.approx(float(untouched), abs=1e-5)


def test_nothing_left_is_reported() -> None:
    assert token(run(bans=range(VOCAB))) == -1


def test_repetition_penalty_is_that_of_transformers() -> None:
    seen = LOGITS[0].argsort(descending=True)[[0, 20, 40]]
    penalise = RepetitionPenaltyLogitsProcessor(penalty=1.7)
    expected = penalise(seen[None], LOGITS.clone()).argmax()
    result = run(counts={int(t): 0 for t in seen}, repetition_penalty=1.7)
    assert token(result) == expected != LOGITS.argmax()


def test_presence_and_frequency_penalise_the_output_alone() -> None:
    best = int(LOGITS.argmax())
    strong: dict[str, Any] = {"presence_penalty": 2.0, "frequency_penalty": 2.0}
    assert token(run(counts={best: 0}, **strong)) == best
    expected = LOGITS[0].clone()
    expected[best] -= 2.0 + 2.0 * 3
    assert token(run(counts={best: 3}, **strong)) == expected.argmax()


@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"), [(5, 1.0, 0.0), (0, 0.6, 0.0), (0, 1.0, 0.2), (20, 0.7, 0.05)]
)
def test_filters_keep_what_those_of_transformers_keep(
    top_k: int, top_p: float, min_p: float
) -> None:
    scores = LOGITS / 0.8
    ids = torch.zeros((1, 1), dtype=torch.long)
    if min_p:
        scores = MinPLogitsWarper(min_p)(ids, scores)
    if top_k:
        scores = TopKLogitsWarper(top_k)(ids, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(ids, scores)
    kept = set(torch.isfinite(scores[0]).nonzero()[:, 0].tolist())
    shape: dict[str, Any] = {"temperature": 0.8, "top_p": top_p, "min_p": min_p}
    drawn = {token(run(top_k=top_k, seed=seed, **shape)) for seed in range(400)}
    assert drawn <= kept
    assert int(LOGITS.argmax()) in drawn
    assert len(drawn) > len(kept) // 2


def test_a_seed_fixes_the_token_and_only_the_seed() -> None:
    warm: dict[str, Any] = {"temperature": 1.5}
    first = [token(run(seed=seed, **warm)) for seed in range(30)]
    assert first == [token(run(seed=seed, **warm)) for seed in range(30)]
    assert len(set(first)) > 5
    assert first == [token(run(seed=seed, **warm, top_k=VOCAB)) for seed in range(30)]


def test_choices_that_are_no_beams_have_no_candidates() -> None:
    assert not len(run().candidates)


def test_a_beam_ranks_by_the_experts_own_log_probabilities() -> None:
    """Bans take tokens out and leave the others' share as it is, as transformers' processors do."""
    own = LOGITS[0].log_softmax(0)
    order = LOGITS[0].argsort(descending=True)
    result = run(candidates=7, bans=(int(order[0]), int(order[3])), base=NONE)
    left = order[[1, 2, 4, 5, 6, 7, 8]]
    found = result.candidates
    assert found["choice"].tolist() == [0] * 7
    assert found["token"].tolist() == left.tolist()
    torch.testing.assert_close(torch.from_numpy(found["log_prob"].copy()), own[left])
    assert (found["log_prob"] == found["expert_log_prob"]).all()
    assert np.isnan(found["base_log_prob"]).all()
    assert np.isnan(result.picks["base_log_prob"][0])


def test_a_contrasted_beam_ranks_within_the_valid_set() -> None:
    best = int(LOGITS.argmax())
    e, a = LOGITS[0].clone(), LOGITS.flip(1)[0]
    e[best] = -torch.inf
    valid = (e >= e.max() + np.log(0.3)).nonzero()[:, 0]
    expected = (e + 0.5 * (e - a))[valid].log_softmax(0)
    order = expected.argsort(descending=True)
    result = run(mode=Mode.COLD, candidates=VOCAB, bans=(best,), alpha=0.3)
    assert 1 < len(valid) < 20
    found = result.candidates
    assert found["token"].tolist() == valid[order].tolist()
    ranked, expert, base = (
        torch.from_numpy(found[name].copy())
        for name in ("log_prob", "expert_log_prob", "base_log_prob")
    )
    torch.testing.assert_close(ranked, expected[order])
    torch.testing.assert_close(expert, LOGITS[0].log_softmax(0)[valid[order]])
    torch.testing.assert_close(base, a.log_softmax(0)[valid[order]])


def test_alternatives_are_the_readers_own_best() -> None:
    """Whatever is banned, penalised, drawn or contrasted."""
    own = LOGITS[0].log_softmax(0)
    best = LOGITS[0].argsort(descending=True)
    more: dict[str, Any] = {"counts": {int(best[1]): 3}, "frequency_penalty": 2.0}
    for how in (
        {},
        {"mode": Mode.COLD},
        {"temperature": 2.0, "seed": 3, **more},
        {"bans": (int(best[0]),)},
        {"forced": 7},
    ):
        found = run(alternatives=5, **how).alternatives
        assert found["choice"].tolist() == [0] * 5
        assert found["token"].tolist() == best[:5].tolist()
        torch.testing.assert_close(torch.from_numpy(found["log_prob"].copy()), own[best[:5]])
    of_base = run(mode=Mode.BASE, expert=NONE, base=0, alternatives=2).alternatives
    assert of_base["token"].tolist() == LOGITS.flip(1)[0].argsort(descending=True)[:2].tolist()
    assert not len(run().alternatives)


def test_each_choice_has_the_alternatives_that_it_asks_for() -> None:
    numbers = (0, 3, 0, VOCAB + 5, 1)
    step = step_of([{"alternatives": number, "base": NONE} for number in numbers])
    result = decode(OPS, step, torch.cat([LOGITS, LOGITS]))
    told = [[one.id for one in token.alternatives] for token in picked_tokens(result) if token]
    best = LOGITS[0].argsort(descending=True).tolist()
    assert told == [best[:number] for number in numbers]


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 2.0), (0.05, 0.5), (0.3, 0.0), (1.0, 2.0)])
def test_forced_tokens_have_a_distribution(alpha: float, beta: float) -> None:
    expected = distribution(LOGITS, LOGITS.flip(1), Decoding("cold", alpha, beta))[0]
    shape: dict[str, Any] = {"alpha": alpha, "beta": beta}
    results = [run(mode=Mode.COLD, forced=token, **shape) for token in range(VOCAB)]
    assert [token(result) for result in results] == [*range(VOCAB)]
    expert, base, found = torch.tensor([log_probs(result) for result in results]).T
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(expert, LOGITS[0].log_softmax(0))
    torch.testing.assert_close(base, LOGITS[0].flip(0).log_softmax(0))
    free = run(mode=Mode.COLD, **shape).picks
    for name in ("expert_token", "valid_count"):
        assert all(result.picks[name] == free[name] for result in results)


@pytest.mark.parametrize(
    ("mode", "unread", "logits"),
    [(Mode.EXPERT, "base", LOGITS), (Mode.BASE, "expert", LOGITS.flip(1))],
)
def test_a_forced_token_has_the_log_probability_of_the_model_that_decodes(
    mode: Mode, unread: str, logits: torch.Tensor
) -> None:
    reads: dict[str, Any] = {"expert": 0, "base": int(unread == "base")} | {unread: NONE}
    reads |= {"base": 0} if unread == "expert" else {}
    (pick,) = run(mode=mode, forced=7, **reads).picks
    own = "expert" if unread == "base" else "base"
    assert pick[f"{own}_log_prob"] == pytest.approx(float(logits[0].log_softmax(0)[7]), abs=1e-5)
    assert pick["decoding_log_prob"] == pick[f"{own}_log_prob"]
    assert np.isnan(pick[f"{unread}_log_prob"])
    assert np.isnan(run(mode=mode, **reads).picks["decoding_log_prob"][0])
