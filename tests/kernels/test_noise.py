"""The noise of the ops: the same integers everywhere, and the distributions that they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cold_kernels import Mode
from cold_kernels.noise import LEAST, MOST, gumbel
from tests.kernels.conftest import Implementation

WORD = 2**32
KEYS = [(0, 0), (1, 2), (WORD - 1, 7), (0x80000000, 0x7FFFFFFF), (0xDEADBEEF, 0xC01DC01D)]


def mix(x: int) -> int:
    """lowbias32, with Python's unbounded integers."""
    x = (x ^ (x >> 16)) * 0x7FEB352D % WORD
    x = (x ^ (x >> 15)) * 0x846CA68B % WORD
    return x ^ (x >> 16)


def uniform(key: tuple[int, int], token: int) -> float:
    return (mix(mix(token ^ key[0]) ^ key[1]) >> 8 | 1) / 2**24


def as_keys(words: list[tuple[int, int]]) -> torch.Tensor:
    """[R, 2] int32 of the same bits."""
    return torch.from_numpy(np.array(words, np.uint32).view(np.int32))


def test_noise_is_what_its_description_says() -> None:
    tokens = [0, 1, 2, 77, 49151, 151935, 2**31 - 1]
    found = gumbel(as_keys(KEYS), torch.tensor(tokens, dtype=torch.int32))
    for row, key in enumerate(KEYS):
        exact = [-math.log(-math.log(uniform(key, token))) for token in tokens]
        torch.testing.assert_close(found[row], torch.tensor(exact), rtol=1e-6, atol=1e-6)


def test_noise_is_bounded() -> None:
    least, most = 2.0**-24, 1 - 2.0**-24
    assert -math.log(-math.log(least)) >= LEAST
    assert -math.log(-math.log(most)) <= MOST


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", Mode)
def test_every_implementation_draws_what_the_noise_says(
    implementation: Implementation, dtype: torch.dtype, mode: Mode
) -> None:
    """Of equal logits the token of the highest noise: the hash itself, at every place of a row."""
    vocab = 700 if implementation.is_slow else 40_000
    keys = as_keys(KEYS * 4)
    keys[:, 1] += torch.arange(len(keys), dtype=torch.int32)
    rows = len(keys)
    on = implementation.device
    flat = torch.zeros(rows, vocab, dtype=dtype, device=on)
    token = implementation.ops.contrast_select(
        flat,
        flat,
        mode=torch.full((rows,), int(mode), dtype=torch.int32, device=on),
        alpha=torch.full((rows,), 0.1, device=on),
        beta=torch.full((rows,), 0.5, device=on),
        temperature=torch.ones(rows, device=on),
        key=keys.to(on),
    ).token.cpu()
    noise = gumbel(keys, torch.arange(vocab, dtype=torch.int32))
    ahead = noise.max(1).values - noise.gather(1, token[:, None])[:, 0]
    assert (ahead <= 1e-5).all()


def test_noise_is_gumbel_over_tokens_and_over_keys() -> None:
    """Chi-square of its uniform numbers in 64 cells, and of neighbours' pairs in 8 x 8."""
    n = 1 << 17
    counting = torch.arange(n, dtype=torch.int32)
    one_key = gumbel(as_keys([(5, 9)]), counting)[0]
    first = gumbel(torch.stack([counting, torch.full_like(counting, 3)], 1), counting[:1])[:, 0]
    second = gumbel(torch.stack([torch.full_like(counting, 3), counting], 1), counting[:1])[:, 0]
    for noise in (one_key, first, second):
        u = (-(-noise.double()).exp()).exp()
        assert_flat((u * 64).long())
        cells = (u * 8).long().view(-1, 2)
        assert_flat(cells[:, 0] * 8 + cells[:, 1])


def assert_flat(cells: torch.Tensor) -> None:
    """63 degrees of freedom: beyond 120 by chance once in fifty thousand times."""
    counts = torch.bincount(cells, minlength=64).double()
    expected = counts.sum() / 64
    assert float(((counts - expected) ** 2 / expected).sum()) < 120
