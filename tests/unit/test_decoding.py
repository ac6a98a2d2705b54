"""Rows with bans, penalties and filters, against transformers' own processors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from cold_backend.contract import (
    Copy,
    LogProb,
    Option,
    OptionScore,
    Pick,
    Reads,
    Step,
    StepResult,
    pack_changes,
)
from cold_backend.decoding.decode import decode
from cold_kernels import Mode, load_ops
from tests.reference import Decoding, distribution

VOCAB = 60
OPS = load_ops("reference", torch.device("cpu"))
LOGITS = torch.randn(1, VOCAB, generator=torch.manual_seed(3)) * 2


def run(
    *,
    mode: Mode = Mode.EXPERT,
    top_k: int = 0,
    seed: int = 0,
    shape: tuple[float, ...] = (0.1, 0.5, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0),
    bans: tuple[int, ...] = (),
    counts: tuple[tuple[int, int], ...] = (),
    options: int = 0,
    given: int = -1,
    reads: Reads = Reads.EXPERT | Reads.BASE,
) -> StepResult:
    step = Step(
        tokens=np.zeros(1, np.int64),
        rows=np.array([[0, 0, 1, 0, int(reads), 1]], np.int32),
        draws=np.array([[mode, top_k, seed, 4, options, given]], np.int64),
        shapes=np.array([shape], np.float32),
        bans=np.array([(0, token) for token in bans], np.int64).reshape(-1, 2),
        counts=np.array([(0, *pair) for pair in counts], np.int64).reshape(-1, 3),
        adapters=pack_changes([]),
        copies=np.empty((0, len(Copy)), np.int32),
    )
    expert, base = int(Reads.EXPERT in reads), int(Reads.BASE in reads)
    return decode(OPS, step, LOGITS[:expert], LOGITS.flip(1)[:base])


def token(result: StepResult) -> int:
    return int(result.picks[0, Pick.TOKEN])


def test_banned_tokens_leave_before_the_valid_set_is_formed() -> None:
    order = LOGITS[0].argsort(descending=True).tolist()
    result = run(mode=Mode.COLD, bans=tuple(order[:5]), shape=(1.0, 0.5, 0, 1, 0, 1, 0, 0))
    assert token(result) == order[5]
    assert result.picks[0, Pick.VALID_COUNT] == 1
    untouched = LOGITS[0].log_softmax(0)[order[5]]
    assert result.log_probs[0, 0] == pytest.approx(float(untouched), abs=1e-5)


def test_nothing_left_is_reported() -> None:
    assert token(run(bans=tuple(range(VOCAB)))) == -1


def test_repetition_penalty_is_that_of_transformers() -> None:
    seen = LOGITS[0].argsort(descending=True)[[0, 20, 40]]
    penalise = RepetitionPenaltyLogitsProcessor(penalty=1.7)
    expected = penalise(seen[None], LOGITS.clone()).argmax()
    result = run(counts=tuple((int(t), 0) for t in seen), shape=(0.1, 0.5, 0, 1, 0, 1.7, 0, 0))
    assert token(result) == expected != LOGITS.argmax()


def test_presence_and_frequency_penalise_the_output_alone() -> None:
    best = int(LOGITS.argmax())
    strong = (0.1, 0.5, 0.0, 1.0, 0.0, 1.0, 2.0, 2.0)
    assert token(run(counts=((best, 0),), shape=strong)) == best
    expected = LOGITS[0].clone()
    expected[best] -= 2.0 + 2.0 * 3
    assert token(run(counts=((best, 3),), shape=strong)) == expected.argmax()


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
    shape = (0.1, 0.5, 0.8, top_p, min_p, 1.0, 0.0, 0.0)
    drawn = {token(run(top_k=top_k, seed=seed, shape=shape)) for seed in range(400)}
    assert drawn <= kept
    assert int(LOGITS.argmax()) in drawn
    assert len(drawn) > len(kept) // 2


def test_a_seed_fixes_the_token_and_only_the_seed() -> None:
    warm = (0.1, 0.5, 1.5, 1.0, 0.0, 1.0, 0.0, 0.0)
    first = [token(run(seed=seed, shape=warm)) for seed in range(30)]
    assert first == [token(run(seed=seed, shape=warm)) for seed in range(30)]
    assert len(set(first)) > 5
    assert first == [token(run(seed=seed, shape=warm, top_k=VOCAB)) for seed in range(30)]


def test_rows_that_are_no_beams_have_no_options() -> None:
    result = run()
    assert result.options.shape == (0, len(Option))
    assert result.option_scores.shape == (0, len(OptionScore))


def test_a_beam_ranks_by_the_experts_own_log_probabilities() -> None:
    """Bans take tokens out and leave the others' share as it is, as transformers' processors do."""
    own = LOGITS[0].log_softmax(0)
    order = LOGITS[0].argsort(descending=True)
    result = run(options=7, bans=(int(order[0]), int(order[3])), reads=Reads.EXPERT)
    left = order[[1, 2, 4, 5, 6, 7, 8]]
    assert result.options.tolist() == [[0, int(token)] for token in left]
    ranked, expert, base = result.option_scores.T
    torch.testing.assert_close(torch.from_numpy(ranked), own[left])
    assert (ranked == expert).all()
    assert np.isnan(base).all()
    assert np.isnan(result.log_probs[0, LogProb.BASE])


def test_a_contrasted_beam_ranks_within_the_valid_set() -> None:
    best = int(LOGITS.argmax())
    e, a = LOGITS[0].clone(), LOGITS.flip(1)[0]
    e[best] = -torch.inf
    valid = (e >= e.max() + np.log(0.3)).nonzero()[:, 0]
    expected = (e + 0.5 * (e - a))[valid].log_softmax(0)
    order = expected.argsort(descending=True)
    result = run(mode=Mode.COLD, options=VOCAB, bans=(best,), shape=(0.3, 0.5, 0, 1, 0, 1, 0, 0))
    assert 1 < len(valid) < 20
    assert result.options[:, Option.TOKEN].tolist() == valid[order].tolist()
    ranked, expert, base = torch.from_numpy(result.option_scores).T
    torch.testing.assert_close(ranked, expected[order])
    torch.testing.assert_close(expert, LOGITS[0].log_softmax(0)[valid[order]])
    torch.testing.assert_close(base, a.log_softmax(0)[valid[order]])


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 2.0), (0.05, 0.5), (0.3, 0.0), (1.0, 2.0)])
def test_given_tokens_have_a_distribution(alpha: float, beta: float) -> None:
    expected = distribution(LOGITS, LOGITS.flip(1), Decoding("cold", alpha, beta))[0]
    shape = (alpha, beta, 0, 1, 0, 1, 0, 0)
    results = [run(mode=Mode.COLD, given=token, shape=shape) for token in range(VOCAB)]
    assert [token(result) for result in results] == [*range(VOCAB)]
    expert, base, found = torch.tensor(np.array([result.log_probs[0] for result in results])).T
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(expert, LOGITS[0].log_softmax(0))
    torch.testing.assert_close(base, LOGITS[0].flip(0).log_softmax(0))
    (picked,) = run(mode=Mode.COLD, shape=shape).picks  # whose other columns tell of the step
    assert all((r.picks[0, 1:] == picked[1:]).all() for r in results)


@pytest.mark.parametrize(
    ("mode", "reads", "own", "other", "logits"),
    [
        (Mode.EXPERT, Reads.EXPERT, LogProb.EXPERT, LogProb.BASE, LOGITS),
        (Mode.BASE, Reads.BASE, LogProb.BASE, LogProb.EXPERT, LOGITS.flip(1)),
    ],
)
def test_a_given_token_has_the_log_probability_of_the_model_that_decodes(
    mode: Mode, reads: Reads, own: LogProb, other: LogProb, logits: torch.Tensor
) -> None:
    (log_probs,) = run(mode=mode, given=7, reads=reads).log_probs
    assert log_probs[own] == pytest.approx(float(logits[0].log_softmax(0)[7]), abs=1e-5)
    assert log_probs[LogProb.DECODING] == log_probs[own]
    assert np.isnan(log_probs[other])
    assert np.isnan(run(mode=mode, reads=reads).log_probs[0, LogProb.DECODING])
