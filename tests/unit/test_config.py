"""Settings: unknown keys, types and ranges; adapters that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cold_backend.adapters.adapter import check_fit, load_adapter
from cold_backend.config import EXECUTIONS, Settings, load_settings, settings_from
from cold_backend.errors import ConfigError
from cold_backend.loading import is_fused, take_device
from cold_backend.models.checkpoint import empty_model, load_config
from cold_backend.server.cli import main
from cold_backend.server.repository import write_repository
from cold_backend.telemetry import logs
from tests.families import make_adapter, make_model


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base_modell": "x"}, "base_modell: unknown setting"),
        ({}, "base_model: is missing"),
        ({"base_model": 3}, "base_model: must be a string"),
        ({"base_model": "x", "max_sequences": True}, "max_sequences: must be an integer"),
        ({"base_model": "x", "max_sequences": 0}, "max_sequences: must be between 1"),
        ({"base_model": "x", "max_step_tokens": 3}, "max_step_tokens: must be between 16"),
        ({"base_model": "x", "dtype": "int4"}, "dtype: must be one of"),
        ({"base_model": "x", "max_wait_s": 0}, "max_wait_s: must be between 0.1"),
        ({"base_model": "x", "max_wait_s": "1"}, "max_wait_s: must be a number"),
        ({"base_model": "x", "log_prompts": 1}, "log_prompts: must be true or false"),
        ({"base_model": "x", "log_format": "xml"}, "log_format: must be one of"),
        ({"base_model": "x", "trace_url": "collector:4318"}, "trace_url: must be an http or https"),
        ({"base_model": "x", "trace_every": -1}, "trace_every: must be between 0"),
        ({"base_model": "x", "adapters": {"../a": "p"}}, "adapters: a name is"),
        ({"base_model": "x", "adapters": ["a"]}, "adapters: must be a table"),
        ({"base_model": "x", "default_adapter": "b"}, "default_adapter: 'b' is not"),
    ],
)
def test_bad_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        settings_from(values)


def test_settings_survive_a_file(tmp_path: Path) -> None:
    settings = Settings(base_model="m", adapters={"b": "x", "a": "y"}, max_queue=7)
    settings.save(tmp_path / "s.json")
    loaded = load_settings(tmp_path / "s.json")
    assert loaded == settings
    assert loaded.adapter_names == ("b", "a")
    assert loaded.default_adapter == "b"


def test_which_execution_and_which_models_of_the_repository(tmp_path: Path) -> None:
    chosen = {
        execution: is_fused(Settings(base_model="m", device="cpu", execution=execution))
        for execution in EXECUTIONS
    }
    assert chosen == {"auto": True, "fused": True, "ensemble": False}
    for fused in (True, False):
        target = tmp_path / str(fused)
        target.mkdir()
        write_repository(target, Settings(base_model="m"), {"a": "1"}, {"b": "2"}, fused=fused)
    assert {path.name for path in (tmp_path / "True").iterdir()} == {"cold"}
    ensemble = {"cold", "cold_step", "base_lm", "adapter_lm", "cold_decoder"}
    assert {path.name for path in (tmp_path / "False").iterdir()} == ensemble


def test_adapter_of_another_model(tmp_path: Path) -> None:
    llama = make_model("llama", tmp_path / "llama")
    other = make_model("gpt2", tmp_path / "gpt2")
    adapter = load_adapter("mine", str(make_adapter(other, tmp_path / "adapter")))
    with pytest.raises(ConfigError, match="adapter mine: the base model has no layer"):
        check_fit(adapter, empty_model(load_config(str(llama))))


def test_broken_adapters(tmp_path: Path) -> None:
    base = make_model("llama", tmp_path / "base")
    path = make_adapter(base, tmp_path / "adapter")
    weights = load_file(path / "adapter_model.safetensors")
    name = next(iter(weights))
    save_file(
        weights | {name: torch.full_like(weights[name], torch.nan)},
        path / "adapter_model.safetensors",
    )
    with pytest.raises(ConfigError, match="not finite"):
        check_fit(load_adapter("mine", str(path)), empty_model(load_config(str(base))))
    save_file(weights | {"extra": torch.ones(2)}, path / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match="extra is not a LoRA matrix"):
        load_adapter("mine", str(path))
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(ConfigError, match="use_dora"):
        load_adapter("mine", str(path))
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    with pytest.raises(ConfigError, match=r"has no adapter_model\.safetensors"):
        load_adapter("mine", str(path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base-model", "/nowhere"], "base_model: /nowhere is not a Hugging Face model"),
        (["--base-model", "{base}", "--adapter", "a=/nowhere"], "adapter a: /nowhere is not"),
        (["--base-model", "{base}", "--max-context", "129"], "at most 128 tokens"),
        (["--config", "/nowhere.toml"], "No such file"),
    ],
)
def test_cold_server_says_in_one_line_why_it_cannot_start(
    arguments: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = make_model("llama", tmp_path / "base")
    assert main([a.format(base=base) for a in arguments]) == 1
    logs._writer.flush(10)
    lines = [line for line in capfd.readouterr().err.splitlines() if "cold-server:" in line]
    assert len(lines) == 1
    assert message in lines[0]


def test_a_gpu_is_not_left_to_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its attention makes a plan for every length of a sequence."""
    flag = torch.backends.cuda.cudnn_sdp_enabled()
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr("cold_backend.loading.choose_device", lambda *_: gpu)
    try:
        assert take_device(Settings(base_model="any", device="cuda"), 0) == gpu
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(flag)
