"""Real models: what is reused gives what computing it anew gives, evicted or not."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cold_backend.config import Settings
from cold_backend.contract import BLOCK_TOKENS
from cold_backend.decoding.execution import FusedExecution
from cold_backend.loading import load_fused_lm, ops_for, take_device
from cold_backend.models.language_model import LanguageModel
from cold_backend.offline import Answer, Cold
from tests.families import make_adapter, make_model
from tests.tokenizers import make_tokenizer

_CONTEXT = 96
_NEW = (7, 8, 9)  # tokens of a second turn


def cold_over(settings: Settings) -> tuple[Cold, LanguageModel]:
    model = load_fused_lm(settings)
    ops = ops_for(settings, take_device(settings, 0))
    return Cold.over(settings, FusedExecution(model, ops).execute), model


def with_and_without(base: Path, adapters: dict[str, str]) -> tuple[Cold, Cold]:
    """With reuse, and memory for two requests of a whole context; without, and enough."""
    settings = Settings(
        base_model=str(base), adapters=adapters, max_context=_CONTEXT, prefix_reuse=False
    )
    anew, model = cold_over(settings)
    blocks = 2 * 2 * (_CONTEXT // BLOCK_TOKENS)
    needed = model.bytes // model.blocks * blocks
    reused, model = cold_over(replace(settings, kv_cache_bytes=needed, prefix_reuse=True))
    assert model.blocks == blocks
    return reused, anew


def told(answer: Answer) -> list[tuple[float | None, float | None]]:
    return [(token.expert_log_prob, token.base_log_prob) for token in answer.tokens]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt2"])
def test_reuse_changes_nothing(family: str, tmp_path: Path) -> None:
    """No bit, where the products are ours; those of torch round by how many tokens are fed."""
    base = make_model(family, tmp_path / "base", vocab_size=400)
    make_tokenizer("byte level", base)
    adapters = {
        name: str(make_adapter(base, tmp_path / name, seed=seed))
        for seed, name in enumerate(("a", "b"))
    }
    reused, anew = with_and_without(base, adapters)
    chance = random.Random(11)
    prefixes = [[chance.randrange(3, 140) for _ in range(64)] for _ in range(3)]
    cached = []
    for number in range(16):
        prompt = chance.choice(prefixes)[: chance.choice((20, 40, 64))] + [number + 3] * 4
        fields = {
            "lora_name": chance.choice("ab"),
            "lora_scale": chance.choice((0.5, 1.0)),
            "decoding": chance.choice(("cold", "greedy")),
            "max_tokens": 6,
            "ignore_eos": True,
            "return_contrast": True,
        }
        for turn in range(2):
            (first,), (second,) = (cold.generate([prompt], **fields) for cold in (reused, anew))
            assert [token.id for token in first.tokens] == [token.id for token in second.tokens]
            if family in ("llama", "qwen2"):
                assert told(first) == told(second)
            else:
                assert np.array(told(first), float) == pytest.approx(
                    np.array(told(second), float), abs=1e-4
                )
            assert second.cached_tokens == 0
            cached.append(first.cached_tokens)
            if turn:  # from where the first one ended: its last token was fed to nobody
                assert first.cached_tokens == len(prompt) - len(_NEW) - 1
            prompt = [*prompt, *(token.id for token in first.tokens), *_NEW]
    assert any(cached[::2]), cached
