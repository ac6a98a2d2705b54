"""The real server, the real model, and the slow reference that answers are compared with."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    # Read when OpenMP is first loaded, by torch. The processes share the cores: threads that are
    # bound would all be on the first ones, and threads that wait must not keep others from working.
    _CORES = len(os.sched_getaffinity(0)) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _CORES)))
    os.environ.setdefault("OMP_PROC_BIND", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from cold_kernels.device import choose_device

if choose_device("auto").type == "cpu":
    # Read when triton-lang is first imported, by transformers for one: its kernels then run in its
    # interpreter.
    os.environ["TRITON_INTERPRET"] = "1"

from safetensors.torch import load_file, save_file

from cold_backend.config import Settings
from cold_backend.server.process import Endpoints, ServerProcess, wait_until
from cold_backend.text.tokenizer import Tokenizer
from tests.prompts import Prompt, real_prompts
from tests.reference import Reference

pytest_plugins = ("tests.groups", "tests.order")

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 180
# Below those of outgoing connections, which could take one before a server does.
_PORTS = range(10_000, 32_000)
_CHANCE = random.SystemRandom()  # which no test seeds
_given_ports: set[int] = set()


@dataclass(frozen=True)
class Server:
    """Where the server of this test run listens."""

    grpc: str
    http: str
    metrics: str
    process: ServerProcess


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--base-model", help="directory of SmolLM2-135M-Instruct")
    parser.addoption("--adapter", default=str(ROOT / "examples/adapters/equations"))


@pytest.fixture(scope="session")
def base_model(request: pytest.FixtureRequest) -> Path:
    directory = request.config.getoption("--base-model")
    if directory is None:
        pytest.fail("this test needs --base-model=DIRECTORY; `make test` passes it")
    return Path(directory)


@pytest.fixture(scope="session")
def adapter(request: pytest.FixtureRequest) -> Path:
    return Path(request.config.getoption("--adapter"))


@pytest.fixture(scope="session")
def second_adapter(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes the same layers otherwise."""
    path = tmp_path_factory.mktemp("adapters") / "flipped"
    path.mkdir()
    shutil.copy(adapter / "adapter_config.json", path)
    weights = load_file(adapter / "adapter_model.safetensors")
    for name, weight in weights.items():
        if "lora_B" in name:
            weights[name] = weight.flip(0).contiguous() / 2
    save_file(weights, path / "adapter_model.safetensors")
    return path


@pytest.fixture(scope="session")
def tokenizer(base_model: Path) -> Tokenizer:
    return Tokenizer(str(base_model), 49152)


@pytest.fixture(scope="session")
def reference(
    base_model: Path, adapter: Path, second_adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    memory = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        memory = memory.parent  # of all processes of this run
    memory /= "reference"
    memory.mkdir(exist_ok=True)
    return Reference(base_model, adapter, memory, second_adapter)


@pytest.fixture(scope="session")
def prompts(tokenizer: Tokenizer) -> list[Prompt]:
    return real_prompts(tokenizer)


@pytest.fixture(scope="session", params=["fused", "ensemble"])
def server(
    request: pytest.FixtureRequest, base_model: Path, adapter: Path, second_adapter: Path
) -> Iterator[Server]:
    settings = Settings(
        base_model=str(base_model),
        adapters={"equations": str(adapter), "flipped": str(second_adapter)},
        dtype="float32",
        execution=request.param,
        max_context=640,
        max_queue=300,
        max_wait_s=300,  # how busy the machine is must not matter to what is answered
    )
    http, grpc, metrics = free_ports(3)
    endpoints = Endpoints(http_port=http, grpc_port=grpc, metrics_port=metrics)
    with ServerProcess(settings, endpoints) as process:
        await_ready(process)
        yield Server(
            grpc=f"grpc://127.0.0.1:{grpc}",
            http=f"http://127.0.0.1:{http}",
            metrics=f"http://127.0.0.1:{metrics}/metrics",
            process=process,
        )


def await_ready(process: ServerProcess) -> None:
    """Waits until the server is ready; fails if it ends or takes too long."""
    give_up = time.monotonic() + START_TIMEOUT_S

    def stopped(seconds: float) -> bool:
        time.sleep(seconds)
        return process.exit_code is not None or time.monotonic() > give_up

    assert wait_until(lambda: process.is_ready, stopped=stopped), "the server did not start"


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, none of them twice in a run."""
    found: list[int] = []
    while len(found) < count:
        port = _CHANCE.choice(_PORTS)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port not in _given_ports:
                _given_ports.add(port)
                found.append(port)
    return found
