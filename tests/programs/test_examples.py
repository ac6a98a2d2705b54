"""The examples' programs, a step or a file that is there already."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.programs.conftest import Start


def test_train_adapter(start: Start, small_model: Path, tmp_path: Path) -> None:
    few = ("--steps", 1, "--batch-size", 2, "--rank", 2, "--loss-items", 2, "--accuracy-items", 1)
    out = tmp_path / "adapter"
    program = ("examples/train_adapter.py", "--base-model", small_model, "--out", out)
    assert f"done: {out}" in start(*program, *few)
    assert (out / "adapter_model.safetensors").exists() and (out / "loss.png").exists()
    assert json.loads((out / "metrics.json").read_text())
    assert "nothing to resume" in start(*program, *few, "--resume", code=1)


def test_prepare_model(start: Start, base_model: Path, tmp_path: Path) -> None:
    """`make setup` converts; what it has made is left alone, and so is what others have."""
    assert "is already complete" in start("examples/prepare_model.py", base_model)
    (tmp_path / "mine").touch()
    refused = start("examples/prepare_model.py", tmp_path, code=1)
    assert f"error: {tmp_path} is not empty" in refused


def test_offline(start: Start, base_model: Path) -> None:
    """The adapter's answers are equations, the base's are not."""
    lines = start("examples/offline.py", base_model).splitlines()
    answers = dict(line.strip().split(": ", 1) for line in lines if ": " in line)
    assert answers["greedy"] == answers["cold"] == "+ number0 number1"
    assert answers["base"] != answers["greedy"]


@pytest.mark.server
def test_demo(start: Start, small_model: Path, small_adapter: Path) -> None:
    """To its end: the server is stopped, and the exit code 0."""
    options = ("--base-model", small_model, "--adapter", f"equations={small_adapter}")
    quick = ("--items", "2", "--shown", "1", "--speed-tokens", "8")
    assert "erver stopped" in start("examples/demo.py", *options, *quick)
