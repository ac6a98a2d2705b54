"""The blocks of the KV cache, layer by layer."""

from __future__ import annotations

import mmap

import pytest
import torch

from cold_backend.contract import BLOCK_TOKENS
from cold_backend.models.kv_cache import KVCache

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


@DTYPES
@pytest.mark.parametrize("has_large_pages", [True, False])
def test_a_layer_takes_its_memory_once(
    dtype: torch.dtype, has_large_pages: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_large_pages:
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    cache = KVCache(5)
    assert cache.bytes == 0
    like = torch.empty(0, dtype=dtype)
    keys, values = cache.layer(0, 2, 32, 16, like=like)
    assert keys.shape == (2, 5, BLOCK_TOKENS, 32) and values.shape == (2, 5, BLOCK_TOKENS, 16)
    assert keys.dtype == values.dtype == dtype
    assert keys.is_contiguous() and not keys.any() and not values.any()
    assert cache.bytes == keys.nbytes + values.nbytes
    keys += 1
    again, _ = cache.layer(0, 2, 32, 16, like=like)
    assert again is keys
    other, _ = cache.layer((0, 1), 1, 8, 8, like=like)  # another attention of the layer
    assert not other.any()


def test_a_system_without_large_pages_gives_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 12345)  # which no system knows
    keys, _ = KVCache(3).layer(0, 1, 16, 16, like=torch.empty(0))
    assert not keys.any()


def test_tokens_are_written_to_their_places() -> None:
    cache = KVCache(3)
    keys, values = torch.randn(2, 4, 8), torch.randn(2, 4, 5)
    places = torch.tensor([40, 3, 47, 0])
    for stored, given in zip(cache.write(0, places, keys, values), (keys, values), strict=True):
        flat = stored.flatten(1, 2)
        assert torch.equal(flat[:, places], given)
        assert int(flat.any(2).any(0).sum()) == len(places)


def test_blocks_are_copied_in_all_layers() -> None:
    cache = KVCache(6)
    before = []
    for number in range(2):
        stored = cache.layer(number, 2, 8, 4, like=torch.empty(0))
        for part in stored:
            part.normal_()
        before.append([part.clone() for part in stored])
    cache.copy([4, 4, 0], [1, 3, 5])
    for number in range(2):
        stored = cache.layer(number, 2, 8, 4, like=torch.empty(0))
        for part, old in zip(stored, before[number], strict=True):
            assert torch.equal(part, old[:, [0, 4, 2, 4, 4, 0]])
