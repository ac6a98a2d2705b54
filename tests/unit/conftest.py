"""A folder of adapters for a tiny model; a parser of requests; the adapter to tritonserver."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from cold_backend.adapters import catalogue
from cold_backend.config import Settings
from cold_backend.requests.parser import RequestParser
from cold_backend.text.tokenizer import Tokenizer
from tests import pb_utils
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


@pytest.fixture
def serving() -> Iterator[SimpleNamespace]:
    """The modules of `cold_backend.serving` that stand on a stand-in for tritonserver's API."""
    names = ("tritonserver", "replies", "steps", "publisher")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "triton_python_backend_utils", pb_utils)
        yield SimpleNamespace(
            **{name: importlib.import_module(f"cold_backend.serving.{name}") for name in names}
        )
    pb_utils.forget()
