"""Every implementation of the ops, on the device that it runs on here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from cold_kernels import IMPLEMENTATIONS, Ops, load_ops
from cold_kernels.device import choose_device

ACCELERATOR = choose_device("auto")


@dataclass(frozen=True)
class Implementation:
    """The ops of one implementation and where their tensors must be."""

    ops: Ops
    device: torch.device

    @property
    def is_slow(self) -> bool:
        """Interpreted: only small shapes are practical."""
        return self.ops.name == "triton_lang" and self.device.type == "cpu"


@pytest.fixture(scope="package", autouse=True)
def several_threads() -> Iterator[None]:
    """Also where test processes share the cores, and have one each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(2, threads))
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> Implementation:
    name: str = request.param
    device = ACCELERATOR if name == "triton_lang" else torch.device("cpu")
    return Implementation(load_ops(name, device), device)
