"""A folder of adapters for a tiny model; a parser of requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from cold_backend.adapters import catalogue
from cold_backend.config import Settings
from cold_backend.requests.request import RequestParser
from cold_backend.text.tokenizer import Tokenizer
from tests.families import make_adapter, make_model
from tests.unit.adapter_folder import Folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model("llama", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def good(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("adapters") / "good")


@pytest.fixture
def folder(base: Path, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(catalogue, "_FRESH_S", 0.0)
    return Folder(base, good, tmp_path)


@pytest.fixture
def parser(tokenizer: Tokenizer) -> RequestParser:
    return RequestParser(Settings(base_model="m", adapters={"a": "p"}, max_context=512), tokenizer)
