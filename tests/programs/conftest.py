"""A model so small that every program is through with it in seconds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from tests.documents import ROOT
from tests.families import add_tokenizer, make_adapter

Start = Callable[..., str]


@pytest.fixture(scope="session")
def small_model(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, the real model's tokenizer."""
    path = tmp_path_factory.mktemp("models") / "SmolLM2-135M-Instruct"
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=49152,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    return add_tokenizer(path, base_model)


@pytest.fixture(scope="session")
def small_adapter(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter for it."""
    return make_adapter(small_model, tmp_path_factory.mktemp("adapters") / "small")


@pytest.fixture
def start() -> Start:
    """Runs `python` with some arguments; returns what it printed, errors too.

    Its exit code has to be `code`, if that is not None.
    """

    def run(*arguments: object, code: int | None = 0) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert code is None or done.returncode == code, done.stdout[-5000:]
        return done.stdout

    return run
