"""What may be under an adapter's name, and what is refused of it."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cold_backend.adapters.loader import AdapterLoader
from cold_backend.errors import (
    ConfigError,
)
from cold_backend.models.checkpoint import empty_model, load_config
from tests.families import make_adapter
from tests.unit.adapter_folder import CONFIG, DEFAULTS, FILES, WEIGHTS, Folder


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"r": 9}, "rank 9, max_lora_rank is 8"),
        ({"target_modules": ["lm_head"]}, "changes lm_head, which only"),
        ({"target_modules": ["embed_tokens"]}, "changes model.embed_tokens, which only"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # PEFT on tied or saved embeddings
def test_what_there_is_no_room_for_is_refused(
    options: dict[str, Any], problem: str, base: Path, tmp_path: Path
) -> None:
    path = make_adapter(base, tmp_path / "adapter", **options)
    loader = AdapterLoader(empty_model(load_config(str(base))), max_rank=8)
    with pytest.raises(ConfigError, match=problem):
        loader.load("special", str(path))


def test_what_is_read_is_what_the_files_have(folder: Folder, good: Path) -> None:
    dtypes = [torch.float32, torch.float16, torch.bfloat16]
    weights = load_file(good / WEIGHTS)
    for dtype in dtypes:
        save_file({name: t.to(dtype) for name, t in weights.items()}, folder.math / WEIGHTS)
        adapter = folder.loader.load("math", str(folder.math))
        for layer, pair in adapter.pairs.items():
            a, b = (f"base_model.model.{layer}.lora_{side}.weight" for side in "AB")
            assert torch.equal(pair.a, weights[a].to(dtype))
            assert torch.equal(pair.b, weights[b].to(dtype))
        for value in (torch.nan, torch.inf, -torch.inf):
            broken = {name: t.to(dtype, copy=True) for name, t in weights.items()}
            next(reversed(broken.values())).view(-1)[-1] = value
            save_file(broken, folder.math / WEIGHTS)
            with pytest.raises(ConfigError, match="holds values that are not finite"):
                folder.loader.load("math", str(folder.math))


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink(missing_ok=True)
    make(path)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (os.mkfifo, "is not a file"),
        (Path.mkdir, "is not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a file"),
        (lambda path: path.symlink_to("/dev/stdin"), ""),
        (lambda path: path.symlink_to("/proc/kmsg"), ""),
        (lambda path: path.symlink_to("/proc/self/mem"), "is empty"),
        (Path.touch, "is empty"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.write_bytes(b" " * (2 << 20)), ""),
        (lambda path: path.write_bytes(b"[" * 100_000), ""),
    ],
    ids=["fifo", "directory", "zero", "stdin", "kmsg", "proc", "empty", "loop", "large", "deep"],
)
def test_what_is_no_plain_file_is_refused_at_once(
    make: Callable[[Path], object], problem: str, file: str, folder: Folder
) -> None:
    replaced(folder.math / file, make)
    text = folder.problem()
    assert text.startswith(f"lora_name: adapter math: {file}: {problem}")
    assert str(folder.path) not in text
    shutil.rmtree(folder.math)


def test_a_link_to_a_plain_file_is_followed(folder: Folder, tmp_path: Path) -> None:
    for file in (WEIGHTS, CONFIG):
        shutil.move(folder.math / file, tmp_path / file)
        (folder.math / file).symlink_to(tmp_path / file)
    (folder.math / DEFAULTS).symlink_to(tmp_path / "nothing")
    assert folder.find("math").defaults.beta == 0.5
    (tmp_path / "nothing").write_text('{"beta": 2}')
    assert folder.find("math").defaults.beta == 2
    assert folder.loads == 1  # what was tuned changes by itself


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"shape": [1 << 40, 4]}, "has data_offsets that are not those of its shape"),
        ({"shape": [4, -1]}, "has a dtype, shape or data_offsets that is none"),
        ({"shape": [True, 4]}, "has a dtype, shape or data_offsets that is none"),
        ({"dtype": "X32"}, "has a dtype, shape or data_offsets that is none"),
        ({"data_offsets": [0, 1 << 50]}, "has data_offsets that are not those of its shape"),
        ({"more": 1}, "needs dtype, shape and data_offsets"),
    ],
)
def test_a_header_that_does_not_fit_is_refused_unread(
    change: dict[str, object], problem: str, folder: Folder
) -> None:
    whole = (folder.math / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    name = next(name for name in header if name != "__metadata__")
    header[name] |= change
    text = json.dumps(header).encode()
    (folder.math / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + whole[end:])
    assert problem in folder.problem()


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"peft_type": "\ud800"}, r"this is \ud800"),
        ({"\ud800": True}, r"LoRA with \ud800 cannot be served"),
        ({"init_lora_weights": "pissa\ud800"}, r"pissa\ud800 changes the base model"),
        ({"rank_pattern": {"\ud800": "x"}}, "rank_pattern: must be between"),
        ({"rank_pattern": {"a{99999999999999999999}": 4}}, "repetition number is too large"),
        ({"alpha_pattern": {"a{99999999999999999999}": 4}}, "repetition number is too large"),
    ],
    ids=ascii,
)
def test_what_is_refused_can_be_said(change: dict[str, object], shown: str, folder: Folder) -> None:
    """Half of a surrogate pair, which JSON can write, cannot be sent."""
    values = json.loads((folder.math / CONFIG).read_text())
    (folder.math / CONFIG).write_text(json.dumps(values | change))
    problem = folder.problem()
    assert shown in problem
    problem.encode()


def test_values_are_not_read_of_what_does_not_fit(folder: Folder) -> None:
    """Terabytes, all of them a hole: nobody has so much memory."""
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    columns = 1 << 38
    header = {
        f"{layer}.lora_A.weight": {
            "dtype": "F32",
            "shape": [4, columns],
            "data_offsets": [0, 16 * columns],
        },
        f"{layer}.lora_B.weight": {
            "dtype": "F32",
            "shape": [64, 4],
            "data_offsets": [16 * columns, 16 * columns + 1024],
        },
    }
    text = json.dumps(header).encode()
    with (folder.math / WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + 16 * columns + 1024)
    assert "q_proj is 64x32 in the base model" in folder.problem()
    many = {f"base_model.model.x{n}.lora_A.weight": torch.ones(1) for n in range(1000)}
    save_file(many, folder.math / WEIGHTS)
    assert "the header may have at most" in folder.problem()
