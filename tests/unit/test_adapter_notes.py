"""What is said of adapters that are served all the same."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from cold_backend.adapters.notes import find_notes
from tests.unit.adapter_folder import CONFIG, Folder


def adapter(path: Path, **config: object) -> Path:
    path.mkdir(parents=True)
    (path / CONFIG).write_text(json.dumps({"peft_type": "LORA"} | config))
    return path


def base(path: Path) -> str:
    path.mkdir(parents=True)
    return str(path)


@pytest.mark.parametrize(
    ("trained_on", "served"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct"),
        ("huggingfacetb/smollm2-135m-instruct", "SmolLM2-135M-Instruct"),
        ("/home/me/SmolLM2_135M_Instruct/", "SmolLM2-135M-Instruct"),
        ("C:\\models\\SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct"),
        ("HuggingFaceTB/SmolLM2-135M", "models--HuggingFaceTB--SmolLM2-135M/snapshots/12ab"),
        ("/x/models--HuggingFaceTB--SmolLM2-135M/snapshots/34cd", "SmolLM2-135M"),
        ("", "SmolLM2-135M"),
        (None, "SmolLM2-135M"),
        (5, "SmolLM2-135M"),
    ],
)
def test_an_adapter_of_the_base_model_is_not_noteworthy(
    trained_on: object, served: str, tmp_path: Path
) -> None:
    path = adapter(tmp_path / "adapters" / "a", base_model_name_or_path=trained_on)
    assert not find_notes("a", path, base(tmp_path / served))


def test_a_link_to_the_base_model_is_the_base_model(tmp_path: Path) -> None:
    base(tmp_path / "SmolLM2-135M")
    (tmp_path / "current").symlink_to("SmolLM2-135M")
    path = adapter(tmp_path / "a", base_model_name_or_path="x/SmolLM2-135M")
    assert not find_notes("a", path, str(tmp_path / "current"))


@pytest.mark.parametrize("trained_on", ["x/Llama-3-8B-Instruct", "Llama-3-8", "other"])
def test_an_adapter_of_another_base_model_is(trained_on: str, tmp_path: Path) -> None:
    path = adapter(tmp_path / "a", base_model_name_or_path=trained_on)
    (note,) = find_notes("a", path, base(tmp_path / "Llama-3-8B"))
    assert "adapter a:" in note
    assert repr(trained_on) in note
    assert "'Llama-3-8B'" in note


def test_files_of_a_tokenizer_are_said_to_be_ignored(tmp_path: Path) -> None:
    path = adapter(tmp_path / "a")
    for file in ("tokenizer.json", "chat_template.jinja", "README.md"):
        (path / file).touch()
    (note,) = find_notes("a", path, base(tmp_path / "base"))
    assert "chat_template.jinja, tokenizer.json in its directory: ignored" in note


def test_what_cannot_be_read_has_no_notes(tmp_path: Path) -> None:
    assert not find_notes("a", tmp_path / "missing", str(tmp_path))


def test_the_log_says_it_once(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    (folder.math / "tokenizer.json").touch()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            folder.find("math")
    assert caplog.text.count("adapter math: tokenizer.json in its directory: ignored") == 1
