"""Adapters from a folder: which are found, and when they are read."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from cold_backend.adapters import catalogue
from cold_backend.adapters.served import ServedAdapter
from cold_backend.adapters.store import READ_LIMIT_S, AdapterStore
from cold_backend.errors import (
    AdapterUnreadableError,
    InvalidRequestError,
    UnknownAdapterError,
)
from tests.unit.adapter_folder import CONFIG, DEFAULTS, WEIGHTS, Folder


def test_an_adapter_is_read_once_and_when_it_changes(folder: Folder) -> None:
    assert folder.catalogue.known("math") is None
    first = folder.find("math")
    assert folder.find("math") == first
    assert folder.loads == 1

    weights = folder.math / WEIGHTS
    os.utime(weights, ns=(1, 1))
    assert folder.find("math") != first
    assert folder.loads == 2

    weights.write_bytes(b"broken")
    assert folder.problem().startswith("lora_name: adapter math: adapter_model.safetensors: ")
    assert folder.problem()
    assert folder.loads == 3
    weights.unlink()
    assert folder.problem() == "lora_name: adapter math: has no adapter_model.safetensors"
    shutil.rmtree(folder.math)
    with pytest.raises(UnknownAdapterError, match="served are: fixed"):
        folder.find("math")


def test_a_change_that_keeps_size_and_time_is_noticed(folder: Folder) -> None:
    folder.find("math")
    status = (folder.math / WEIGHTS).stat()
    whole = bytearray((folder.math / WEIGHTS).read_bytes())
    whole[-4] ^= 1
    with (folder.math / WEIGHTS).open("r+b") as file:
        file.write(whole)
    os.utime(folder.math / WEIGHTS, ns=(status.st_atime_ns, status.st_mtime_ns))
    folder.find("math")
    assert folder.loads == 2


def test_what_is_there_from_the_start_is_not_looked_for(folder: Folder) -> None:
    shutil.rmtree(folder.path)
    for name in ("fixed", ""):
        assert folder.catalogue.known(name) == ServedAdapter(name)
        assert folder.catalogue.read(name) == ServedAdapter(name)


def test_what_was_just_looked_at_is_known(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_FRESH_S", 60.0)
    look = os.stat

    def slow(*arguments: Any, **options: Any) -> os.stat_result:
        time.sleep(0.2)
        return look(*arguments, **options)

    assert folder.catalogue.known("math") is None
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", slow)
        served = folder.catalogue.read("math")
    assert folder.catalogue.known("math") is served
    (folder.math / CONFIG).write_text("{")
    time.sleep(1.0)
    assert folder.catalogue.known("math") is None
    assert folder.problem()
    assert folder.catalogue.known("math") is None  # what is broken may be mended any time


@pytest.mark.parametrize("name", ["../outside", "..", ".", "/etc", "math/", "a\0b", "math\n"])
def test_names_do_not_leave_the_folder(name: str, folder: Folder) -> None:
    with pytest.raises(UnknownAdapterError, match=r"served are: fixed, math$"):
        folder.find(name)


def test_only_adapters_are_listed_and_each_once(folder: Folder, good: Path) -> None:
    (folder.path / "notes").mkdir()
    (folder.path / "README.md").write_text("x")
    shutil.copytree(good, folder.path / "fixed")
    shutil.copytree(good, folder.path / "not a name")
    (folder.path / "linked").symlink_to(good)
    with pytest.raises(UnknownAdapterError, match=r"served are: fixed, linked, math$"):
        folder.find("other")
    assert folder.problem("notes") == "lora_name: adapter notes: has no adapter_model.safetensors"
    for number in range(30):
        shutil.copytree(good, folder.path / f"n{number:02}")
    time.sleep(1.1)  # the list is used for a second
    with pytest.raises(UnknownAdapterError, match=r"fixed, linked, math, n00, .*, n17, …$"):
        folder.find("other")


def test_a_store_keeps_what_it_has_room_for(folder: Folder, good: Path) -> None:
    stamps = {}
    for name in ("a", "b"):
        shutil.copytree(good, folder.path / name)
        stamps[name] = folder.store.read(name, str(folder.path / name)).stamp
    size = folder.loader.load("a", str(folder.path / "a")).bytes
    small = AdapterStore(folder.loader, size)
    for name in ("a", "b"):
        small.read(name, str(folder.path / name))
    loads = folder.loads
    for name in ("b", "a"):
        found = small.take(name, str(folder.path / name), stamps[name]).result(20)
        assert found.name == name and found.stamp == stamps[name]
    assert folder.loads == loads + 1
    with pytest.raises(AdapterUnreadableError, match="changed before it was loaded"):
        small.take("a", str(folder.path / "a"), (1,)).result(20)


def test_a_broken_adapter_stays_broken_until_it_is_touched(folder: Folder) -> None:
    config = folder.math / CONFIG
    config.write_text("{")
    with pytest.raises(InvalidRequestError, match="adapter math: adapter_config"):
        folder.find("math")
    assert folder.problem()
    assert folder.loads == 1
    assert READ_LIMIT_S == 30


def test_defaults_are_read_with_their_adapter_and_once(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.math / DEFAULTS).write_text(json.dumps({"beta": 2, "tuning": "x" * 900_000}))
    assert folder.find("math").defaults.beta == 2
    opened: list[str] = []
    good_open = os.open

    def noted(path: Any, *arguments: Any, **options: Any) -> int:
        opened.append(str(path))
        return good_open(path, *arguments, **options)

    monkeypatch.setattr(os, "open", noted)
    assert folder.find("math").defaults.beta == 2
    assert not [path for path in opened if path.startswith(str(folder.path))]
    (folder.math / DEFAULTS).write_text('{"betta": 2}')
    assert folder.problem() == (
        "lora_name: adapter math: cold.json: 'betta': unknown key; "
        "known are decoding, alpha, beta, beta_rule, lora_scale, amateur, tuning"
    )
    (folder.math / DEFAULTS).unlink()
    assert folder.find("math").defaults.beta == 0.5
