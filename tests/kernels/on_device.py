"""A pytest plugin (`-p tests.kernels.on_device --on npu`): tests of the kernels on one device.

Without it they run every implementation, each where it runs here. What tests the native
implementation by name does not use it: `-k "not native"` leaves that out.
"""

from __future__ import annotations

import pytest

from cold_kernels import load_ops
from cold_kernels.device import choose_device
from tests.kernels.conftest import Implementation


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--on", default="auto", help="cpu, cuda, npu, or auto for the best there is")


@pytest.fixture(scope="session")
def implementation(request: pytest.FixtureRequest) -> Implementation:
    """The only implementation that the tests are run on."""
    device = choose_device(request.config.getoption("--on"))
    return Implementation(load_ops("auto", device), device)
