"""Adapters that come, change, break and go while the server runs."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import httpx
import pytest
from safetensors.torch import load_file, save_file

from cold_client import AdapterNotFound, Client, InvalidRequest, Request
from tests.server.test_supervision import Running, cold_server

pytestmark = pytest.mark.server
KMSG = "/proc/kmsg"  # of no size, and never at its end
WEIGHTS = "adapter_model.safetensors"


def ask(client: Client, adapter: str | None, **options: object) -> tuple[int, ...]:
    fields = {"text_input": "There are number0 apples .", "max_tokens": 12} | options
    return client.generate(Request(lora_name=adapter, **fields)).token_ids  # type: ignore[arg-type]


def copy(adapter: Path, target: Path, scale: float = 1) -> None:
    """Writes a copy whose B is scaled, in one move."""
    new = target.parent.parent / "new"
    shutil.copytree(adapter, new)
    weights = load_file(new / WEIGHTS)
    save_file({k: v * scale if "lora_B" in k else v for k, v in weights.items()}, new / WEIGHTS)
    if target.exists():
        shutil.rmtree(target)
    new.rename(target)


def counter(server: Running, name: str) -> float:
    time.sleep(1)  # until it is published
    lines = httpx.get(server.metrics).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


@pytest.mark.parametrize("execution", ["fused", "ensemble"])
def test_adapters_come_change_and_go(
    execution: str, base_model: Path, adapter: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    options = ("--execution", execution, "--adapters-dir", str(folder), "--max-sequences", "2")
    with (
        cold_server(base_model, adapter, *options) as server,
        Client(server.grpc) as client,
        Client(server.http) as over_http,
    ):
        expected, of_base = ask(client, "equations"), ask(client, None, decoding="base")
        assert expected != of_base
        with pytest.raises(AdapterNotFound, match="served are: equations"):
            ask(client, "added")

        copy(adapter, folder / "added")
        assert ask(client, "added") == ask(over_http, "added") == expected
        copy(adapter, folder / "added", scale=0)
        assert ask(client, "added") == of_base

        stopping = threading.Event()
        others: list[tuple[int, ...]] = []

        def go_on() -> None:
            with Client(server.grpc) as other:
                while not stopping.is_set():
                    others.append(ask(other, "equations"))

        thread = threading.Thread(target=go_on)
        thread.start()
        (folder / "added" / WEIGHTS).write_bytes(b"broken")
        with pytest.raises(InvalidRequest, match="adapter added") as refusal:
            ask(client, "added")
        assert refusal.value.field == "lora_name"
        shutil.rmtree(folder / "added")
        with pytest.raises(AdapterNotFound):
            ask(client, "added")
        for number in range(3):
            copy(adapter, folder / f"copy{number}")
            assert ask(client, f"copy{number}") == expected
        for name, make in (("pipe", os.mkfifo), ("kernel", lambda path: path.symlink_to(KMSG))):
            copy(adapter, folder / name)
            make(folder / name / "cold.json")
            with pytest.raises(InvalidRequest, match=f"adapter {name}: cold.json: ") as refusal:
                ask(client, name)
            assert str(folder) not in str(refusal.value)
        stopping.set()
        thread.join(30)
        assert others
        assert set(others) == {expected}
        assert counter(server, "cold_adapter_loads_total") == 5
        assert counter(server, "cold_adapter_evictions_total") == 3
        assert counter(server, "cold_adapters_loaded") == 3
        assert counter(server, "cold_restarts") == 0
