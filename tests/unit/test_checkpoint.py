"""What a model directory may hold, and what is refused before anything is served."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig

from cold_backend.errors import ConfigError
from cold_backend.models.checkpoint import check_model, context_limit, load_config, load_model
from tests.families import make_model
from tests.fuzz.tiny_models import make_tiny
from tests.unit.test_layers import ROOT

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CPU = torch.device("cpu")
Tensors = dict[str, Tensor]

pytestmark = pytest.mark.slow


def load(path: Path) -> torch.nn.Module:
    return load_model(str(path), load_config(str(path)), torch.float32, CPU)


def both_refuse(path: Path, text: str) -> None:
    """The command, which reads no values, and the model's process, which might be started alone."""
    ways: list[Callable[[], object]] = [
        lambda: check_model(str(path), load_config(str(path))),
        lambda: load(path),
    ]
    for way in ways:
        with pytest.raises(ConfigError) as caught:
            way()
        assert text in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.fixture
def untied(tmp_path: Path) -> Path:
    return make_model("llama", tmp_path / "base", tie_word_embeddings=False)


def rewrite(path: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(path / WEIGHTS)
    change(tensors)
    save_file(tensors, path / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "key",
    ["lm_head.weight", "model.layers.1.self_attn.q_proj.weight", "model.norm.weight"],
)
def test_missing_weights_are_named(key: str, untied: Path) -> None:
    rewrite(untied, lambda tensors: tensors.pop(key))
    both_refuse(untied, f"weights are missing: {key}")


def test_a_tied_head_is_not_missing(tmp_path: Path) -> None:
    path = make_model("llama", tmp_path / "base", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(path / WEIGHTS)
    assert isinstance(load(path), torch.nn.Module)


def test_a_missing_part_of_fused_experts_is_named(tmp_path: Path) -> None:
    for number, part in enumerate(("w1", "w2")):
        path = make_model("mixtral", tmp_path / str(number))
        key = f"model.layers.0.block_sparse_moe.experts.0.{part}.weight"
        rewrite(path, lambda tensors, key=key: tensors.pop(key))  # type: ignore[misc]
        both_refuse(path, "model.layers.0.mlp.experts.")


def test_other_shapes_are_refused(untied: Path) -> None:
    key = "model.layers.0.mlp.up_proj.weight"
    rewrite(untied, lambda tensors: tensors.update({key: torch.ones(47, 32)}))
    both_refuse(untied, f"{key} has the shape [47, 32], [48, 32]")


@pytest.mark.parametrize(
    "key", ["model.layers.0.self_attn.q_proj.bias", "model.layers.2.mlp.up_proj.weight"]
)
def test_weights_that_would_matter_are_not_left_out(key: str, untied: Path) -> None:
    rewrite(untied, lambda tensors: tensors.update({key: torch.ones(64)}))
    both_refuse(untied, f"has no place for {key}")


def test_weights_of_another_part_are_left_out(untied: Path) -> None:
    rewrite(untied, lambda tensors: tensors.update({"vision.projection.weight": torch.ones(2, 2)}))
    assert isinstance(load(untied), torch.nn.Module)


def test_weights_that_are_no_numbers(untied: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")

    rewrite(untied, change)
    with pytest.raises(ConfigError, match=r"layers.1.mlp.up_proj.weight holds .* not finite"):
        load(untied)


def test_a_file_that_is_cut_short(untied: Path) -> None:
    whole = (untied / WEIGHTS).read_bytes()
    for length in (len(whole) - 1, 100, 7, 0):
        (untied / WEIGHTS).write_bytes(whole[:length])
        both_refuse(untied, f"{WEIGHTS} is broken")


@pytest.mark.parametrize(
    ("index", "text"),
    [
        ('{"weight_map": {}}', f"{INDEX} is broken"),
        ('{"weight_map": {}, "metadata": 1}', f"{INDEX} is broken"),
        (
            '{"weight_map": {"a": "model-1.safetensors"}, "metadata": {}}',
            "names model-1.safetensors, which is not",
        ),
        ('{"weight_map": {"a": "../model.safetensors"}, "metadata": {}}', "names a file outside"),
        ('{"weight_map": {"a": 1}, "metadata": {}}', "names a file outside"),
        ("{}", f"{INDEX} is broken"),
        ("[", f"{INDEX} is broken"),
    ],
)
def test_a_broken_index(index: str, text: str, untied: Path) -> None:
    (untied / WEIGHTS).unlink()
    (untied / INDEX).write_text(index)
    both_refuse(untied, text)


def test_more_layers_than_weights_are_refused_at_once(untied: Path) -> None:
    alter(untied, num_hidden_layers=10**9)
    both_refuse(untied, "num_hidden_layers in config.json is 1000000000, but there are weights of")


def test_pickled_weights_are_not_read(untied: Path) -> None:
    torch.save(load_file(untied / WEIGHTS), untied / "pytorch_model.bin")
    (untied / WEIGHTS).unlink()
    both_refuse(untied, f"has no {WEIGHTS}")
    alter(untied, transformers_weights="adapter_model.bin")
    both_refuse(untied, "transformers_weights")


def test_a_directory_that_is_an_adapter_too(untied: Path) -> None:
    (untied / "adapter_config.json").write_text("{}")
    both_refuse(untied, "holds a PEFT adapter")


def alter(path: Path, **values: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | values))


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8", "mxfp4", "no-such"])
def test_quantised_models_are_refused_by_method(method: str, untied: Path) -> None:
    alter(untied, quantization_config={"quant_method": method, "bits": 4})
    both_refuse(untied, f"is quantised ({method})")


def test_quantised_weights_of_which_the_configuration_says_nothing(untied: Path) -> None:
    key = "model.layers.0.mlp.up_proj.weight"
    rewrite(untied, lambda tensors: tensors.update({key: torch.ones(48, 32, dtype=torch.int8)}))
    both_refuse(untied, f"{key} holds I8")


@pytest.mark.parametrize("family", ["gptj", "gpt_neo", "falcon", "bloom"])
def test_models_without_the_attention_interface(family: str, tmp_path: Path) -> None:
    make_tiny(family, tmp_path, 0)
    both_refuse(tmp_path, "attention interface")


@pytest.mark.parametrize("family", ["lfm2", "mamba", "rwkv", "jamba"])
def test_models_with_a_state_of_their_own(family: str, tmp_path: Path) -> None:
    make_tiny(family, tmp_path, 0)
    both_refuse(tmp_path, "keep a state of their own")


@pytest.mark.parametrize("kind", ["llama", "unknown"])
def test_code_in_a_model_directory_is_not_run(
    kind: str, untied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for a known architecture either, which is served by transformers' own code."""
    ran = tmp_path / "ran"
    (untied / "planted.py").write_text(f"open({str(ran)!r}, 'w')\nclass Planted: pass\n")
    classes = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
    planted = dict.fromkeys(classes, "planted.Planted")
    alter(untied, auto_map=planted, model_type=kind)
    for name in ("tokenizer_config.json", "generation_config.json"):
        (untied / name).write_text(json.dumps({"auto_map": planted}))
    monkeypatch.setattr(sys, "stdin", None)  # a question would fail
    if kind == "llama":
        assert type(load(untied)).__name__ == "LlamaForCausalLM"
    else:
        both_refuse(untied, str(untied))
    assert not ran.exists()


def _loads(function: str) -> bool:
    return re.search(r"\bAuto\w+\.from_(pretrained|config)$", function) is not None


def test_no_program_runs_code_of_a_model_directory() -> None:
    """Each call that could is told not to."""
    calls = 0
    for folder in ("benchmarks", "evaluation", "examples", "study", "load_tests"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and _loads(ast.unparse(node.func)):
                    options = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    assert options.get("trust_remote_code") == "False", (path, node.lineno)
                    calls += 1
    assert calls > 5


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("rope", "limit"),
    [
        ({"type": "dynamic", "factor": 2.0}, 128),
        ({"rope_type": "dynamic", "factor": 2.0}, 128),
        ({"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 64}, 64),
        ({"rope_type": "linear", "factor": 2.0}, 128),
        (YARN, 128),
        (None, 128),
    ],
)
def test_context_limits(rope: dict[str, Any] | None, limit: int) -> None:
    config = AutoConfig.for_model("llama", max_position_embeddings=128, rope_scaling=rope)
    assert context_limit(config) == limit


def test_context_limit_by_type_of_layer() -> None:
    kinds = ("full_attention", "sliding_attention")
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 64}
    ropes = {kind: {"rope_theta": 1e4, **dynamic} for kind in kinds}
    config = AutoConfig.for_model("gemma3_text", max_position_embeddings=128, rope_parameters=ropes)
    assert context_limit(config) == 64
