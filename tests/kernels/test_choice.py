"""Draws and log-probabilities of every implementation, against the slow way and exact chances."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from cold_kernels import Drawn, choice_torch
from tests.choosing import How, left_by_filters, noise, right_tokens, scores_of
from tests.kernels.conftest import Implementation
from tests.kernels.inputs import DTYPES, LOG_PROB_TOLERANCE
from tests.launches import Launches

NEVER = -math.inf


def draw(implementation: Implementation, scores: Tensor, hows: list[How], room: int) -> Drawn:
    on = implementation.device
    found = implementation.ops.draw(scores.to(on), **arguments(hows, on), room=room)
    return Drawn(*(tensor.cpu() for tensor in found))


def arguments(hows: list[How], on: torch.device) -> dict[str, Any]:
    """A row each; the key is of the row's place."""
    columns = {
        name: torch.tensor([getattr(how, name) for how in hows], dtype=dtype, device=on)
        for name, dtype in (
            ("temperature", torch.float32),
            ("top_k", torch.int32),
            ("top_p", torch.float32),
            ("min_p", torch.float32),
        )
    }
    key = torch.tensor([[7 * row, 3] for row in range(len(hows))], dtype=torch.int32, device=on)
    return {**columns, "key": key}


def check(implementation: Implementation, scores: Tensor, hows: list[How], room: int) -> int:
    """Returns how many rows were certain, whose tokens are right."""
    found = draw(implementation, scores, hows, room)
    assert found.certain.all() or room < scores.shape[1]
    for row, how in enumerate(hows):
        if not found.certain[row]:
            continue
        gumbel = noise((7 * row, 3), scores.shape[1])
        exact = How(**{**vars(how), "top_p": f32(how.top_p), "min_p": f32(how.min_p)})
        right = right_tokens(scores[row].double().numpy(), gumbel, exact)
        token = int(found.token[row])
        assert token in right if right else token == -1, (row, how, token, right)
    return int(found.certain.sum())


def f32(value: float) -> float:
    """What is left of it in float32."""
    return float(np.float32(value))


HOWS = st.builds(
    How,
    temperature=st.sampled_from([0.0, 0.001, 0.7, 1.0, 5.0, 1000.0]),
    top_k=st.sampled_from([0, 1, 3, 50, 10_000]),
    top_p=st.sampled_from([1.0, 0.99, 0.9, 0.5, 1e-6]),
    min_p=st.sampled_from([0.0, 1e-9, 0.05, 0.5, 1.0]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    hows=st.lists(HOWS, min_size=1, max_size=4),
    vocab=st.integers(1, 300),
    seed=st.integers(0, 2**20),
    spread=st.sampled_from([0.0, 0.5, 3.0, 12.0]),
    oddity=st.sampled_from(["", "ties", "holes", "infinite", "nothing"]),
    room=st.sampled_from([1, 5, 60, 1000]),
)
def test_draw_anywhere(
    implementation: Implementation,
    hows: list[How],
    vocab: int,
    seed: int,
    spread: float,
    oddity: str,
    room: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(len(hows), vocab, generator=generator) * spread
    if oddity == "ties":
        scores = scores.round()
    if oddity == "holes":
        scores[:, ::2] = NEVER
    if oddity == "infinite":
        scores[0, vocab // 2] = math.inf
    if oddity == "nothing":
        scores[-1] = NEVER
    check(implementation, scores, hows, room)
    assert check(implementation, scores, hows, vocab) == len(hows)


@pytest.mark.parametrize("vocab", [5000, 49_157])
def test_draw_from_large_vocabularies(implementation: Implementation, vocab: int) -> None:
    scores = torch.randn(3, vocab, generator=torch.Generator().manual_seed(1)) * 2
    scores[1] = scores[1].round()  # thousands of ties
    for how in (
        How(temperature=0.7, top_k=50, top_p=0.9),
        How(temperature=0.7, top_p=0.9),
        How(temperature=1.5, top_p=0.95),
        How(temperature=1.0, min_p=0.01, top_p=0.8),
        How(temperature=1.0, min_p=1e-12, top_k=4000),
        How(temperature=1.0),
        How(),
    ):
        check(implementation, scores, [how] * 3, 1024)
        assert check(implementation, scores, [how] * 3, vocab) == 3


def test_a_room_that_is_enough_is_known_to_be(implementation: Implementation) -> None:
    scores = torch.randn(4, 4000, generator=torch.Generator().manual_seed(2)) * 3
    for how in (How(), How(temperature=0.7, top_k=50), How(temperature=0.5, top_p=0.5)):
        assert check(implementation, scores, [how] * 4, 1024) == 4


@pytest.mark.parametrize("rows", [1, 7])
def test_a_row_does_not_see_its_batch(implementation: Implementation, rows: int) -> None:
    scores = torch.randn(rows, 900, generator=torch.Generator().manual_seed(3))
    hows = [How(temperature=0.5 + row, top_p=0.9, top_k=row * 40) for row in range(rows)]
    whole = draw(implementation, scores, hows, 900).token
    on = implementation.device
    for row in range(rows):
        alone = {name: x[row : row + 1] for name, x in arguments(hows, on).items()}
        one = implementation.ops.draw(scores[row : row + 1].to(on), **alone, room=900)
        assert one.token.cpu() == whole[row]


@pytest.mark.parametrize(
    "how",
    [
        How(temperature=1.0),
        How(temperature=0.7, top_k=8, top_p=0.9),
        How(temperature=1.5, top_p=0.8),
        How(temperature=1.2, min_p=0.1),
    ],
    ids=["all", "top_k and top_p", "top_p", "min_p"],
)
def test_a_hundred_thousand_draws_have_the_exact_chances(
    implementation: Implementation, how: How
) -> None:
    """Chi-square against the softmax of what the filters leave."""
    draws, vocab = 100_000, 24
    on = implementation.device
    scores = torch.randn(vocab, generator=torch.Generator().manual_seed(4))
    one = arguments([how], on)
    many = {name: x.expand(draws, *x.shape[1:]) for name, x in one.items()}
    many["key"] = torch.stack([torch.arange(draws), torch.arange(draws) * 31], 1).int().to(on)
    token = implementation.ops.draw(scores.expand(draws, vocab).to(on), **many, room=vocab).token
    counts = torch.bincount(token.cpu(), minlength=vocab).double()
    z = (scores.double() - scores.max()) / how.temperature
    left = torch.from_numpy(left_by_filters(z.numpy(), how.top_k, how.top_p, how.min_p))
    chances = z.masked_fill(~left, NEVER).softmax(0)
    assert not counts[~left].any()
    expected = chances[left] * draws
    surprise = float(((counts[left] - expected) ** 2 / expected).sum())
    freedom = int(left.sum()) - 1
    assert surprise < freedom + 5 * math.sqrt(2 * freedom) + 10


def test_the_torch_version_starts_the_same_ops_for_any_rows() -> None:
    """None waits for the device, and none has a shape that depends on what a row holds."""
    how = How(temperature=0.7, top_k=50, top_p=0.9, min_p=0.01)
    found = []
    for rows in (1, 4, 32):
        scores, given = torch.randn(rows, 500), arguments([how] * rows, torch.device("cpu"))
        with Launches() as launches:
            choice_torch.draw(scores, **given, room=100)
        assert not launches.waits
        found.append(launches.names)
    assert found[0] == found[1] == found[2]


def test_penalties_are_those_of_each_row(implementation: Implementation) -> None:
    scores = torch.randn(3, 90, generator=torch.Generator().manual_seed(6)) * 3
    scores[1, 4], scores[2, 5] = NEVER, math.inf
    rows, tokens, times = [0, 0, 1, 1, 2, 2], [4, 7, 4, 89, 5, 0], [0, 1, 2, 3, 1, 0]
    strength = {
        "repetition": [1.0, 1.5, 0.5],
        "presence": [0.5, 0.0, -2.0],
        "frequency": [0.25, -1.0, 0.0],
    }
    expected = scores.clone()
    for row, token, n in zip(rows, tokens, times, strict=True):
        how = How(
            counts={token: n},
            repetition_penalty=strength["repetition"][row],
            presence_penalty=strength["presence"][row],
            frequency_penalty=strength["frequency"][row],
        )
        expected[row] = torch.from_numpy(scores_of(expected[row].numpy(), scores[row].numpy(), how))
    on = implementation.device
    found = scores.to(on, copy=True)
    implementation.ops.penalise(
        found,
        row=torch.tensor(rows, device=on),
        token=torch.tensor(tokens, device=on),
        times=torch.tensor(times, device=on),
        **{name: torch.tensor(values, device=on) for name, values in strength.items()},
    )
    torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_log_probs(implementation: Implementation, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    for rows, vocab, each in ((1, 1, 1), (3, 70, 4), (2, 40_001, 2)):
        logits = (torch.randn(rows, vocab, generator=generator) * 4).to(dtype)
        logits[:, 1::3] = NEVER
        token = torch.randint(vocab, (rows, each), generator=generator)
        on = implementation.device
        found = implementation.ops.log_probs(logits.to(on), token.to(on)).cpu()
        assert found.dtype == torch.float32
        expected = logits.double().log_softmax(1).gather(1, token).float()
        torch.testing.assert_close(found, expected, atol=LOG_PROB_TOLERANCE[dtype], rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_divergence(implementation: Implementation, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    on = implementation.device
    for rows, vocab in ((1, 1), (3, 70), (2, 513), (2, 40_001)):
        expert = (torch.randn(rows, vocab, generator=generator) * 4).to(dtype)
        away = torch.tensor([0.0, 0.01, 3.0])[:rows, None]
        base = (expert + away * torch.randn(rows, vocab, generator=generator)).to(dtype)
        expert[:, 1::3], base[:, 2::3] = NEVER, NEVER
        found = implementation.ops.divergence(expert.to(on), base.to(on)).cpu()
        assert found.dtype == torch.float32
        p, q = (logits.double().softmax(1) for logits in (expert, base))
        expected = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
        atol = 2e-5 if dtype == torch.float32 else 2e-4
        np.testing.assert_allclose(found, expected, atol=atol)


def entropy(p: Tensor) -> Tensor:
    """Of each row, in bits."""
    return -torch.special.xlogy(p, p).sum(1) / math.log(2)


def test_divergence_at_its_ends(implementation: Implementation) -> None:
    """Of what is alike, whatever is added to a row, and of what has nothing in common."""
    on = implementation.device
    row = torch.randn(1, 5000, generator=torch.Generator().manual_seed(1), device="cpu") * 5
    even, odd = row.clone(), row.clone()
    even[:, 1::2], odd[:, ::2] = NEVER, NEVER
    expert, base = torch.cat((row, row, even)), torch.cat((row, row + 90, odd))
    found = implementation.ops.divergence(expert.to(on), base.to(on)).cpu().tolist()
    assert found == [0, pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6)]
    assert max(found) <= 1
