"""Every implementation of the ops, on the device that it runs on here."""

from __future__ import annotations

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


@pytest.fixture(scope="session", params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> Implementation:
    name: str = request.param
    device = ACCELERATOR if name == "triton_lang" else torch.device("cpu")
    return Implementation(load_ops(name, device), device)
