"""The reference against the formulas, row by row, and their exact consequences."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cold_kernels import Mode, Ops, Selection, load_ops

OPS: Ops = load_ops("reference", torch.device("cpu"))
COLD, EXPERT, BASE = (int(mode) for mode in Mode)


def select(
    expert: Tensor,
    base: Tensor,
    *,
    mode: int = COLD,
    alpha: float = 0.1,
    beta: float = 0.5,
    temperature: float = 0.0,
    key: Tensor | None = None,
) -> Selection:
    rows = len(expert)
    return OPS.contrast_select(
        expert,
        base,
        mode=torch.full((rows,), mode, dtype=torch.int32),
        alpha=torch.full((rows,), alpha),
        beta=torch.full((rows,), beta),
        temperature=torch.full((rows,), temperature),
        key=key,
    )


def logits(rows: int, vocab: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(rows, vocab, generator=torch.manual_seed(seed)) * 4).to(dtype)


@settings(max_examples=60, deadline=None)
@given(
    vocab=st.integers(1, 300),
    seed=st.integers(0, 2**20),
    alpha=st.floats(2**-20, 1, width=32),
    beta=st.floats(0, 10, width=32),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_the_formula(vocab: int, seed: int, alpha: float, beta: float, dtype: torch.dtype) -> None:
    expert, base = logits(2, vocab, seed, dtype), logits(2, vocab, seed + 1, dtype)
    result = select(expert, base, alpha=alpha, beta=beta)
    for row in range(2):
        e, a = expert[row].double(), base[row].double()
        cutoff = e.max() + math.log(alpha)
        sure = (e >= cutoff + 1e-5) | (e == e.max())
        scores = (e + beta * (e - a)).masked_fill(e < cutoff - 1e-5, -math.inf)
        token = int(result.token[row])
        assert scores[token] >= scores[sure].max() - 1e-4
        assert abs(int(result.valid_count[row]) - int(sure.sum())) <= int(
            ((e - cutoff).abs() <= 1e-5).sum()
        )
        assert result.expert_token[row] == e.argmax()
        assert result.expert_log_prob[row] == pytest.approx(
            float(e.log_softmax(0)[token]), abs=1e-4
        )
        assert result.base_log_prob[row] == pytest.approx(float(a.log_softmax(0)[token]), abs=1e-4)


@pytest.mark.parametrize("mode", [COLD, EXPERT, BASE])
def test_the_scores(mode: int) -> None:
    expert = torch.tensor([[3.0, 2.5, -1.0, 2.0, -math.inf]])
    base = torch.tensor([[1.0, 4.0, 3.0, -math.inf, 0.5]])
    scores = OPS.contrast_scores(
        expert,
        base,
        mode=torch.tensor([mode], dtype=torch.int32),
        alpha=torch.tensor([0.3]),
        beta=torch.tensor([0.5]),
    )
    never = -math.inf
    contrasted = [3.0 + 0.5 * 2.0, 2.5 - 0.5 * 1.5, never, math.inf, never]
    expected = {COLD: contrasted, EXPERT: expert[0].tolist(), BASE: base[0].tolist()}
    assert scores[0].tolist() == pytest.approx(expected[mode])


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 0.0), (1.0, 0.5)])
def test_no_contrast_is_the_experts_choice(alpha: float, beta: float) -> None:
    expert, base = logits(64, 1000, 1), logits(64, 1000, 2)
    assert torch.equal(select(expert, base, alpha=alpha, beta=beta).token, expert.argmax(1))


def test_equal_models_give_the_bases_choice() -> None:
    expert = logits(64, 1000, 3)
    for beta in (0.0, 0.3, 7.0):
        assert torch.equal(select(expert, expert.clone(), beta=beta).token, expert.argmax(1))


def test_a_constant_on_a_row_changes_nothing() -> None:
    expert, base = logits(64, 1000, 4), logits(64, 1000, 5)
    shifted = select(expert + 8, base - 16)
    assert torch.equal(select(expert, base).token, shifted.token)


def test_modes_read_only_their_logits() -> None:
    expert, base = logits(3, 50, 6), logits(3, 50, 7)
    broken = torch.full_like(expert, math.nan)
    alone = select(expert, broken, mode=EXPERT)
    assert torch.equal(alone.token, expert.argmax(1))
    assert alone.base_log_prob.isnan().all()
    amateur = select(broken, base, mode=BASE)
    assert torch.equal(amateur.token, base.argmax(1))
    assert (amateur.expert_token == -1).all()


def test_ties_go_left_and_infinities_are_handled() -> None:
    never = -math.inf
    expert = torch.tensor(
        [[0.0, 2.0, 2.0, 2.0], [never, never, 1.0, never], [never, 3.0, never, 2.9]]
    )
    result = select(expert, torch.zeros_like(expert), alpha=0.5)
    assert result.token.tolist() == [1, 2, 1]
    assert result.valid_count.tolist() == [3, 1, 2]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_broken_logits_are_reported_for_their_row(value: float) -> None:
    expert = logits(3, 20, 8)
    expert[1, 5] = value
    nothing = torch.full((1, 20), -math.inf)
    assert select(expert, logits(3, 20, 9)).token.tolist()[1] == -1
    assert (select(expert, logits(3, 20, 9)).token[[0, 2]] >= 0).all()
    assert select(nothing, nothing, mode=EXPERT).token.tolist() == [-1]


def test_gumbel_noise_samples_from_the_softmax_of_the_scores() -> None:
    rows, scores = 20000, torch.tensor([1.0, 0.0, -1.0, -30.0])
    key = torch.arange(2 * rows, dtype=torch.int32).view(rows, 2)
    expert = scores.expand(rows, 4).contiguous()
    drawn = select(expert, expert, mode=EXPERT, temperature=2.0, key=key).token
    shares = torch.bincount(drawn, minlength=4) / rows
    torch.testing.assert_close(shares, (scores / 2).softmax(0), atol=0.012, rtol=0)


def test_lora_apply_against_dense_products_and_base_rows_bit_identical() -> None:
    torch.manual_seed(0)
    y, x = torch.randn(9, 11), torch.randn(9, 7)
    a, b, scale = torch.randn(3, 4, 7), torch.randn(3, 4, 11), torch.tensor([0.5, 2.0, 1.0])
    rank = torch.tensor([4, 2, 0], dtype=torch.int32)
    index = torch.tensor([[0, -1, 2, 1, 1, -1, 0, 2, -1]], dtype=torch.int32)
    strength = torch.tensor([[0.5, 2.0, 1.0, 2.5, 0.0, 1.0, 8.0, 0.5, 1.0]])
    out = y.clone()
    OPS.lora_apply(out, x, a=a, b=b, scale=scale, rank=rank, index=index, strength=strength)
    for token, adapter in enumerate(index[0].tolist()):
        if adapter in (-1, 2):
            assert torch.equal(out[token], y[token])
        else:
            used = slice(0, int(rank[adapter]))
            delta = b[adapter, used].T @ (a[adapter, used] @ x[token])
            expected = y[token] + scale[adapter] * strength[0, token] * delta
            torch.testing.assert_close(out[token], expected, atol=1e-5, rtol=1e-5)
