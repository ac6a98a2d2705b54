"""Every implementation of every op against the reference: dtypes, shapes, odd values, chance."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from cold_kernels import Mode, Selection, contrast_torch, reference
from cold_kernels.noise import gumbel
from tests.kernels.conftest import Implementation
from tests.kernels.inputs import (
    DTYPES,
    LOG_PROB_TOLERANCE,
    LORA_TOLERANCE,
    TIE_MARGIN,
    Contrast,
    Lora,
    contrast,
    lora,
)

NEVER = -math.inf
BY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])


def keys_of(case: Contrast) -> Tensor:
    """What each row's pick maximises, [R, V]."""
    scores = contrast_torch.contrast_scores(case.expert, case.base, **case.scoring)
    if case.key is None:
        return scores
    best = scores.max(1, keepdim=True).values
    heat = case.temperature[:, None]
    noise = gumbel(case.key, torch.arange(scores.shape[1], dtype=torch.int32))
    drawn = (scores - best) / heat.clamp(min=1e-9) + noise
    return torch.where(heat > 0, drawn, scores)


def select(implementation: Implementation, case: Contrast) -> Selection:
    on = implementation.device
    settings = case.settings_on(on)
    found = implementation.ops.contrast_select(case.expert.to(on), case.base.to(on), **settings)
    return Selection(*(tensor.cpu() for tensor in found))


def check_selection(found: Selection, case: Contrast, margin: float = TIE_MARGIN) -> None:
    expected = reference.contrast_select(case.expert, case.base, **case.settings)
    keys = keys_of(case)
    tolerance = LOG_PROB_TOLERANCE[case.expert.dtype]
    assert torch.equal(found.token < 0, expected.token < 0)
    for row in (found.token >= 0).nonzero()[:, 0].tolist():
        token, best = int(found.token[row]), int(expected.token[row])
        assert token == best or keys[row, token] >= keys[row, best] - margin, (row, token, best)
        assert found.expert_token[row] == expected.expert_token[row]
        check_count(int(found.valid_count[row]), int(expected.valid_count[row]), case, row)
        if token != best:
            continue
        for field in ("score", "expert_log_prob", "base_log_prob"):
            torch.testing.assert_close(
                getattr(found, field)[row],
                getattr(expected, field)[row],
                atol=tolerance,
                rtol=1e-5,
                equal_nan=True,
            )


def check_count(found: int, expected: int, case: Contrast, row: int) -> None:
    """The sizes agree, but for tokens that rounding may put on either side of the cutoff."""
    e = case.expert[row].float()
    on_the_edge = (e - (e.max() + case.alpha[row].log())).abs() <= TIE_MARGIN
    assert abs(found - expected) <= int(on_the_edge.sum())


def shapes(implementation: Implementation) -> list[tuple[int, int]]:
    small = [(1, 1), (3, 33), (2, 4099)]
    large = [(1, 151936), (3, 32003), (64, 49152), (8, 151936)]
    return small if implementation.is_slow else small + large


@BY_DTYPE
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_contrast_select(
    implementation: Implementation, dtype: torch.dtype, temperature: float
) -> None:
    for rows, vocab in shapes(implementation):
        case = contrast(rows, vocab, dtype, seed=vocab, temperature=temperature)
        check_selection(select(implementation, case), case)


@pytest.mark.parametrize(
    ("alpha", "beta"), [(1.0, 0.5), (2**-20, 0.5), (0.1, 0.0), (0.1, 100.0), (1e-30, 3.0)]
)
def test_contrast_select_with_extreme_settings(
    implementation: Implementation, alpha: float, beta: float
) -> None:
    case = contrast(3, 2000, torch.float32, seed=1, modes=(Mode.COLD,), alpha=alpha, beta=beta)
    # The margin grows with the scores.
    check_selection(select(implementation, case), case, margin=TIE_MARGIN * (1 + beta))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.integers(1, 5),
    vocab=st.integers(1, 1100),
    seed=st.integers(0, 2**20),
    alpha=st.floats(2**-20, 1, width=32),
    beta=st.floats(0, 10, width=32),
    temperature=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
    dtype=st.sampled_from(DTYPES),
)
def test_contrast_select_anywhere(
    implementation: Implementation,
    rows: int,
    vocab: int,
    seed: int,
    alpha: float,
    beta: float,
    temperature: float,
    dtype: torch.dtype,
) -> None:
    case = contrast(rows, vocab, dtype, seed=seed, alpha=alpha, beta=beta, temperature=temperature)
    check_selection(select(implementation, case), case, margin=TIE_MARGIN * (1 + beta))


@BY_DTYPE
def test_ties_go_left(implementation: Implementation, dtype: torch.dtype) -> None:
    case = contrast(3, 3000, dtype, modes=(Mode.COLD, Mode.EXPERT, Mode.BASE))
    case.expert[:, [700, 701, 2999]] = 40.0
    case.base[:] = case.base.clamp(max=8)
    case.base[:, [700, 701, 2999]] = 30.0
    found = select(implementation, case)
    assert found.token.tolist() == [700, 700, 700]
    assert found.valid_count.tolist() == [3, 3, 3000]


@BY_DTYPE
def test_minus_infinity_is_never_picked(implementation: Implementation, dtype: torch.dtype) -> None:
    case = contrast(6, 2100, dtype, temperature=1.0)
    case.expert[:, ::3], case.base[:, ::3] = NEVER, NEVER
    case.expert[3], case.base[4] = NEVER, NEVER  # a row with one finite logit, in each mode
    case.expert[3, 1900], case.base[4, 1901] = 1.0, 1.0
    case.expert[5], case.base[5] = NEVER, NEVER  # BASE row without any
    found = select(implementation, case)
    check_selection(found, case)
    assert found.token[3] == 1900
    assert found.token[5] == -1


@BY_DTYPE
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf])
def test_broken_logits_break_the_rows_that_read_them(
    implementation: Implementation, dtype: torch.dtype, value: float
) -> None:
    case = contrast(6, 2100, dtype)
    case.expert[:3, 1500] = value
    case.base[3:, 1600] = value
    # Rows take turns at COLD, EXPERT, BASE.
    found = select(implementation, case).token
    assert (found < 0).tolist() == [True, True, False, True, False, True]


def check_scores(implementation: Implementation, case: Contrast) -> None:
    """They are the reference's, and contrast_select of the same implementation agrees with them."""
    on = implementation.device
    scoring = {name: tensor.to(on) for name, tensor in case.scoring.items()}
    scores = implementation.ops.contrast_scores(
        case.expert.to(on), case.base.to(on), **scoring
    ).cpu()
    assert scores.dtype == torch.float32
    expected = contrast_torch.contrast_scores(case.expert, case.base, **case.scoring)
    assert torch.equal(scores.isneginf(), expected.isneginf())
    torch.testing.assert_close(scores, expected)
    selection = select(implementation, case)
    picked = scores.gather(1, selection.token[:, None])[:, 0]
    torch.testing.assert_close(picked, selection.score)
    torch.testing.assert_close(picked, scores.max(1).values)
    for row in (case.mode == Mode.COLD).nonzero()[:, 0].tolist():
        valid = int((scores[row] > NEVER).sum())
        check_count(int(selection.valid_count[row]), valid, case, row)


@BY_DTYPE
def test_contrast_scores(implementation: Implementation, dtype: torch.dtype) -> None:
    for rows, vocab in shapes(implementation):
        case = contrast(rows, vocab, dtype, seed=vocab)
        case.expert[:, ::3], case.base[:, ::3] = NEVER, NEVER
        case.expert[:, 0], case.base[:, 0] = 1.0, 1.0
        check_scores(implementation, case)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.5), (2**-20, 0.5), (0.1, 0.0), (0.1, 100.0)])
def test_contrast_scores_with_extreme_settings(
    implementation: Implementation, alpha: float, beta: float
) -> None:
    check_scores(implementation, contrast(3, 2000, torch.float32, alpha=alpha, beta=beta))


@BY_DTYPE
def test_contrast_scores_read_only_what_the_mode_reads(
    implementation: Implementation, dtype: torch.dtype
) -> None:
    case = contrast(3, 50, dtype, modes=(Mode.EXPERT, Mode.BASE))
    expected = torch.where(case.mode[:, None] == Mode.EXPERT, case.expert, case.base).float()
    case.base[case.mode == Mode.EXPERT] = math.nan
    case.expert[case.mode == Mode.BASE] = math.nan
    on = implementation.device
    scoring = {name: tensor.to(on) for name, tensor in case.scoring.items()}
    scores = implementation.ops.contrast_scores(case.expert.to(on), case.base.to(on), **scoring)
    assert torch.equal(scores.cpu(), expected)


def check_lora(implementation: Implementation, case: Lora) -> None:
    expected, found = case.y.clone(), case.y.to(implementation.device, copy=True)
    reference.lora_apply(expected, case.x, **case.weights)
    on = {name: tensor.to(implementation.device) for name, tensor in case.weights.items()}
    implementation.ops.lora_apply(found, case.x.to(implementation.device), **on)
    untouched = ((case.index < 0) | (case.rank[case.index] == 0)).all(0)
    assert torch.equal(found.cpu()[untouched], case.y[untouched])
    tolerance = LORA_TOLERANCE[case.y.dtype] * len(case.index)  # y is rounded for each
    error = (found.cpu().double() - expected.double()).abs()
    assert (error <= tolerance * (1 + expected.double().abs())).all(), error.max()


@BY_DTYPE
@pytest.mark.parametrize(
    "ranks",
    [
        *((1,), (8,), (64,), (128,)),
        pytest.param((200,), marks=pytest.mark.slow),
        *((1, 8, 64, 128), (16, 0, 3)),
    ],
    ids=str,
)
def test_lora_apply(
    implementation: Implementation, dtype: torch.dtype, ranks: tuple[int, ...]
) -> None:
    small = [(1, 64, 96), (3, 33, 7), (70, 64, 48)]
    large = [(1, 576, 1536), (8, 4096, 576), (64, 576, 192), (300, 576, 576)]
    for tokens, inputs, outputs in small if implementation.is_slow else small + large:
        check_lora(implementation, lora(tokens, inputs, outputs, ranks, dtype, seed=tokens))


@BY_DTYPE
def test_several_adapters_of_a_token(implementation: Implementation, dtype: torch.dtype) -> None:
    for tokens in (1, 3, 70):
        case = lora(tokens, 64, 48, (4, 9, 1), dtype, seed=tokens, each=4)
        check_lora(implementation, case)


def test_lora_apply_without_adapters_changes_nothing(implementation: Implementation) -> None:
    case = lora(5, 64, 48, (4,), torch.bfloat16)
    case.index.fill_(-1)
    check_lora(implementation, case)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    tokens=st.integers(1, 20),
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 70),
    ranks=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    seed=st.integers(0, 2**20),
    dtype=st.sampled_from(DTYPES),
)
def test_lora_apply_anywhere(
    implementation: Implementation,
    tokens: int,
    inputs: int,
    outputs: int,
    ranks: list[int],
    seed: int,
    dtype: torch.dtype,
) -> None:
    check_lora(implementation, lora(tokens, inputs, outputs, tuple(ranks), dtype, seed=seed))


@BY_DTYPE
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5, 8.0])
def test_a_strength_is_a_factor_of_the_scale(
    implementation: Implementation, dtype: torch.dtype, factor: float
) -> None:
    """To the bit: a strength of 1 leaves what an adapter adds as it is."""
    on = implementation.device

    def applied(case: Lora) -> Tensor:
        y = case.y.to(on, copy=True)
        weights = {name: tensor.to(on) for name, tensor in case.weights.items()}
        implementation.ops.lora_apply(y, case.x.to(on), **weights)
        return y

    for tokens in (3, 70):
        case = lora(tokens, 64, 48, (4, 9), dtype)
        strong = replace(case, strength=torch.full((1, tokens), factor))
        scaled = replace(case, scale=case.scale * factor, strength=torch.ones((1, tokens)))
        assert torch.equal(applied(strong), applied(scaled))


def test_lora_apply_on_strided_tensors(implementation: Implementation) -> None:
    on = implementation.device
    for tokens in (3, 70):
        case = lora(tokens, 40, 24, (4, 9), torch.float32)
        whole = torch.zeros(tokens, 60, device=on)
        part = whole[:, 10:34]
        part.copy_(case.y)
        x = case.x.to(on).T.contiguous().T
        weights = {name: tensor.to(on) for name, tensor in case.weights.items()}
        weights["strength"] = weights["strength"].repeat_interleave(2, dim=1)[:, ::2]
        implementation.ops.lora_apply(part, x, **weights)
        expected = case.y.clone()
        reference.lora_apply(expected, case.x, **case.weights)
        torch.testing.assert_close(part.cpu(), expected, atol=1e-4, rtol=1e-4)
        assert not whole[:, :10].any()
        assert not whole[:, 34:].any()
