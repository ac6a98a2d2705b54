"""A pytest plugin (`-p npu`): the parity suite on the NPU of this machine."""

from __future__ import annotations

import pytest

from cold_kernels import load_ops
from cold_kernels.device import choose_device
from tests.kernels.conftest import Implementation


@pytest.fixture(scope="session")
def implementation() -> Implementation:
    """The only implementation that the parity suite is run on."""
    device = choose_device("npu")
    return Implementation(load_ops("auto", device), device)
