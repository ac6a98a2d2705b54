from collections.abc import Iterator

import pytest

from .fake_grpc import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.stop()
