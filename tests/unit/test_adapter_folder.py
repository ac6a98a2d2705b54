"""Adapters from a folder: which are found, and which the models hold."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cold_backend.adapter_catalogue import AdapterCatalogue, ServedAdapter
from cold_backend.adapter_loader import AdapterLoader
from cold_backend.adapter_slots import AdapterSlots
from cold_backend.checkpoint import empty_model, load_config
from cold_backend.config import Settings
from cold_backend.errors import ConfigError, InvalidRequestError, UnknownAdapterError
from tests.families import make_adapter, make_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model("llama", tmp_path_factory.mktemp("base"))


@pytest.fixture
def catalogue(base: Path, tmp_path: Path) -> AdapterCatalogue:
    (tmp_path / "folder").mkdir()
    make_adapter(base, tmp_path / "folder" / "math")
    make_adapter(base, tmp_path / "outside")
    settings = Settings(
        base_model=str(base), adapters={"fixed": "p"}, adapters_dir=str(tmp_path / "folder")
    )
    loader = AdapterLoader(empty_model(load_config(str(base))), max_rank=8)
    return AdapterCatalogue(settings, loader)


def test_an_adapter_is_read_once_and_when_it_changes(
    catalogue: AdapterCatalogue, tmp_path: Path
) -> None:
    assert not catalogue.is_read("math")
    first = catalogue.find("math")
    assert catalogue.is_read("math")
    assert catalogue.find("math") == first

    weights = tmp_path / "folder/math/adapter_model.safetensors"
    os.utime(weights, ns=(1, 1))
    assert not catalogue.is_read("math")
    assert catalogue.find("math") != first

    weights.write_bytes(b"broken")
    with pytest.raises(InvalidRequestError, match=r"^lora_name: adapter math: "):
        catalogue.find("math")
    assert catalogue.is_read("math")
    weights.unlink()
    with pytest.raises(InvalidRequestError, match=r"has no adapter_model\.safetensors"):
        catalogue.find("math")
    shutil.rmtree(tmp_path / "folder/math")
    with pytest.raises(UnknownAdapterError, match="served are: fixed"):
        catalogue.find("math")


def test_what_is_there_from_the_start_is_not_looked_for(catalogue: AdapterCatalogue) -> None:
    assert catalogue.find("fixed") == ServedAdapter("fixed")
    assert catalogue.find("") == ServedAdapter("")


@pytest.mark.parametrize("name", ["../outside", "..", ".", "/etc", "math/", "", "a\0b", "math\n"])
def test_names_do_not_leave_the_folder(name: str, catalogue: AdapterCatalogue) -> None:
    if not name:
        assert not catalogue.find(name).path
        return
    with pytest.raises(UnknownAdapterError, match="served are: fixed, math"):
        catalogue.find(name)


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


def served(name: str) -> ServedAdapter:
    return ServedAdapter(name, f"/{name}", (1,))


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 2)), max_size=60))
def test_adapters_in_use_keep_their_index(steps: list[tuple[str, int]]) -> None:
    """At most three sequences run; what the models hold is what the indices stand for."""
    slots = AdapterSlots(["fixed"], 3)
    running: list[tuple[str, int]] = []
    loaded: dict[int, str] = {}
    for name, oldest in steps:
        if len(running) == 3:
            slots.give_back(running.pop(oldest)[1])
        index = slots.take(served(name))
        for change in slots.take_changes():
            assert change.evicts == loaded.get(change.index, "")
            assert change.index not in {used for _, used in running}
            loaded[change.index] = change.name
        running.append((name, index))
        assert all(loaded[used] == wanted for wanted, used in running)
        assert index > 0
    assert len(slots) == 1 + len(loaded) <= 4


def test_the_longest_unused_makes_way() -> None:
    slots = AdapterSlots([], 2)
    for name in "aba":
        slots.give_back(slots.take(served(name)))
    slots.take_changes()
    assert slots.take(served("c")) == slots.take(served("c"))
    (change,) = slots.take_changes()
    assert (change.name, change.evicts) == ("c", "b")
    slots.reload()
    assert {change.name for change in slots.take_changes()} == {"a", "c"}


def test_indices_of_the_fixed() -> None:
    slots = AdapterSlots(["x", "y"], 0)
    assert [slots.take(ServedAdapter(name)) for name in ("y", "x", "")] == [1, 0, -1]
    slots.give_back(1)
    assert not slots.take_changes()
