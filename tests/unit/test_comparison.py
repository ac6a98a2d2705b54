"""Models whose packed forward differs from their own code are refused, others never."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.masking_utils import AttentionMaskInterface

from cold_backend.config import Settings
from cold_backend.errors import ConfigError
from cold_backend.loading import load_adapter_lm, load_base_lm, load_fused_lm
from cold_backend.models.attention import ATTENTION_NAME, PackedState
from cold_backend.models.batch import TokenAdapters
from cold_backend.models.checkpoint import check_model, load_config
from cold_backend.models.language_model import LanguageModel
from cold_backend.models.lora import LoraBank
from cold_backend.models.masks import window_rule
from tests.families import FAMILIES, make_adapter, make_model
from tests.fuzz.tiny_models import make_tiny
from tests.steps import BOTH, forward
from tests.unit.test_language_model import prompt, reference

pytestmark = pytest.mark.slow


def load(path: Path, **settings: Any) -> LanguageModel:
    common = {"max_context": 96, "max_sequences": 3}
    return load_fused_lm(Settings(base_model=str(path), **(common | settings)))


def refuses_before_weights_are_read(path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        check_model(str(path), load_config(str(path)))


def refuses(path: Path, text: str, **settings: Any) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        load(path, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rounding_is_no_reason(family: str, dtype: str, tmp_path: Path) -> None:
    load(make_model(family, tmp_path), dtype=dtype, adapters_dir=str(tmp_path))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_is_no_reason_in_a_deep_model(
    dtype: str, base_model: Path, tmp_path: Path
) -> None:
    load(base_model, dtype=dtype, adapters_dir=str(tmp_path))


@pytest.mark.parametrize("context", [2, 3, 16])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_short_contexts(family: str, context: int, tmp_path: Path) -> None:
    path = make_model(family, tmp_path, eos_token_id=[2, 5, 7])
    load(path, max_context=context, max_sequences=1)


def test_a_window_that_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_model("mistral", tmp_path)
    load(path)
    monkeypatch.setitem(
        AttentionMaskInterface._global_mapping,
        ATTENTION_NAME,
        lambda **options: window_rule(None, options["device"]),
    )
    refuses(path, r"its logits for token \d+ of a text .* away from those that transformers gives")


def test_a_state_that_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into what comes behind in the same forward, as a convolution would."""

    def update(self: PackedState, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        return key, (value + value.roll(1, dims=2)) / 2

    path = make_model("gemma", tmp_path)
    monkeypatch.setattr(PackedState, "update", update)
    refuses(path, "beside another")


def test_adapters_that_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_model("gemma", tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapters" / "one")
    nobody = TokenAdapters(torch.full((1, 96), -1, dtype=torch.int32), torch.ones((1, 96)))
    monkeypatch.setattr(LoraBank, "adapters_of", lambda _, n: nobody.take(torch.arange(n)))
    refuses(base, "with an adapter", adapters={"one": str(adapter)})
    refuses(base, "with an adapter", adapters_dir=str(tmp_path / "adapters"))
    load(base)


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_nothing_is_left_of_the_adapter_that_was_tried(family: str, tmp_path: Path) -> None:
    base = make_model(family, tmp_path)
    model = load(base, adapters_dir=str(tmp_path))
    ids = prompt(9, 1)
    (expert,) = forward(model, ids, {"length": 9, "adapter": 0})
    torch.testing.assert_close(expert[0], reference(base, ids)[-1], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["bart", "roberta"])
def test_attention_that_is_not_causal(family: str, tmp_path: Path) -> None:
    make_tiny(family, tmp_path, 0)
    refuses(tmp_path, "attention that is not causal is not supported")
    refuses_before_weights_are_read(tmp_path, "attention that is not causal is not supported")


@pytest.mark.parametrize("family", ["deepseek_v32", "doge"])
def test_attention_that_reads_its_mask(family: str, tmp_path: Path) -> None:
    make_tiny(family, tmp_path, 0)
    refuses(tmp_path, "a model that reads its attention mask")
    refuses_before_weights_are_read(tmp_path, "a model that reads its attention mask")


def test_both_parts_of_an_ensemble_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_model("gemma", tmp_path)
    settings = Settings(base_model=str(path), max_context=64, max_sequences=1)
    load_base_lm(settings)
    load_adapter_lm(settings)
    monkeypatch.setattr(PackedState, "update", lambda self, key, value, *_: (value, key))
    for load_part in (load_base_lm, load_adapter_lm):
        with pytest.raises(ConfigError, match="is not supported"):
            load_part(settings)


# With the sizes and the vocabulary that the values were found with.
SERVED = {
    "llama4_text": (
        {"attention_chunk_size": 16, "num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0]},
        range(500, 540),
        [6332, 15306, 13763],
    ),
    "afmoe": ({}, range(500, 512), [46338, 3420, 35940, 1066, 22824, 44889, 2549, 21661]),
}


@pytest.mark.parametrize("family", SERVED)
def test_tokens_of_models_that_were_answered_wrongly(family: str, tmp_path: Path) -> None:
    options, ids, expected = SERVED[family]
    sizes: dict[str, Any] = {"vocab_size": 49152, "max_position_embeddings": 256, "pad_token_id": 2}
    path = make_model(family, tmp_path, deviation=0.3, **(sizes | options))
    assert greedy(load(path), [*ids], len(expected)) == expected


def greedy(model: LanguageModel, ids: list[int], count: int) -> list[int]:
    """The next tokens, after a prompt that is fed in pieces beside another text."""
    tokens, fed = ids, 0
    while len(tokens) < len(ids) + count:
        piece = tokens[fed : fed + 16]
        columns = {"slot": 1, "start": fed, "length": len(piece)}
        expert, _ = forward(model, [*piece, 5, 6], columns, {"length": 2}, readers=BOTH)
        fed += len(piece)
        if fed == len(tokens):
            tokens = [*tokens, int(expert[0].argmax())]
    return tokens[len(ids) :]
