"""How much memory keys and values get."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cold_backend.config import Settings
from cold_backend.errors import ConfigError
from cold_backend.loading import default_context, load_fused_lm
from cold_backend.models import block_count as counting
from cold_backend.models.block_count import block_count
from cold_backend.models.checkpoint import check_model, load_config
from cold_kernels.free_memory import free_bytes
from tests.families import make_model

CPU = torch.device("cpu")
SETTINGS = Settings(base_model="m", max_context=512, max_sequences=4)
BLOCK = 1000  # bytes


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    bytes_of = {"free": 0}
    monkeypatch.setattr(counting, "free_bytes", lambda _: bytes_of["free"])
    return bytes_of


@pytest.mark.parametrize(
    ("blocks_free", "blocks"),
    [
        (10_000, 256),  # all that four requests can fill
        (640, 128),  # a fifth
        (300, 64),  # a single request takes more than that
        (72, 64),
    ],
)
def test_a_share_of_what_is_free(blocks_free: int, blocks: int, free: dict[str, int]) -> None:
    free["free"] = blocks_free * BLOCK
    assert block_count(SETTINGS, CPU, BLOCK, readers=2, models=1) == blocks
    # Each model of an ensemble has half of the memory, and half of the contexts.
    assert block_count(SETTINGS, CPU, BLOCK, readers=1, models=2) == blocks // 2


def test_too_little_is_said_with_what_would_fit(free: dict[str, int]) -> None:
    free["free"] = 70 * BLOCK
    with pytest.raises(ConfigError, match=r"max_context: .* set max_context to 504 at most"):
        block_count(SETTINGS, CPU, BLOCK, readers=2, models=1)
    few = replace(SETTINGS, kv_cache_bytes=32 * BLOCK)
    with pytest.raises(ConfigError, match=r"kv_cache_bytes: .* set max_context to 256 at most"):
        block_count(few, CPU, BLOCK, readers=2, models=1)


def test_what_is_given_is_taken(free: dict[str, int], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    given = replace(SETTINGS, kv_cache_bytes=960_500)
    assert block_count(given, CPU, BLOCK, readers=2, models=1) == 960
    assert "7680 tokens in all, or 15.0 requests of max_context = 512" in caplog.text
    assert block_count(given, CPU, BLOCK, readers=1, models=2) == 480


def test_the_context_is_the_models_limit_where_there_is_memory(
    tmp_path: Path, free: dict[str, int]
) -> None:
    base = make_model("llama", tmp_path / "base", max_position_embeddings=2048)
    settings = Settings(base_model=str(base), max_context=512)
    model = check_model(str(base), load_config(str(base)))
    free["free"] = 1 << 40
    assert default_context(settings, model) == 2048
    loaded = load_fused_lm(settings)
    token_bytes = 2 * loaded.bytes // loaded.blocks // 16
    assert default_context(replace(settings, kv_cache_bytes=800 * token_bytes), model) == 768
    free["free"] = 0
    assert default_context(settings, model) == 256


def test_memory_of_a_container(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 90 kB\nMemAvailable:  64 kB\n")
    assert free_bytes(CPU, tmp_path) == 64 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("10000\n")
    (group / "memory.stat").write_text("anon 3\ninactive_file 4000\n")
    assert free_bytes(CPU, tmp_path) == 64 * 1024
    (group / "memory.max").write_text("30000\n")
    assert free_bytes(CPU, tmp_path) == 24_000
    old = group / "memory"
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text("20000")
    (old / "memory.usage_in_bytes").write_text("19000")
    (old / "memory.stat").write_text("total_inactive_file 500")
    assert free_bytes(CPU, tmp_path) == 1500
    (tmp_path / "proc/meminfo").unlink()
    assert free_bytes(CPU, tmp_path) == 1500
