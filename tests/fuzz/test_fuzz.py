"""A short slice of `make fuzz`, the same inputs every time."""

from __future__ import annotations

from pathlib import Path

import pytest

from cold_backend.text.tokenizer import Tokenizer
from tests.conftest import Server
from tests.fuzz import parts
from tests.fuzz.models import fuzz_models
from tests.fuzz.served import Health, fuzz_gateway, fuzz_grpc, fuzz_http
from tests.fuzz.tiny_models import families
from tests.reference import Reference
from tests.server.test_openai import running


@pytest.mark.parametrize("target", ["parser", "gateway"])
def test_guided_by_coverage(target: str, base_model: Path, tmp_path: Path) -> None:
    outcomes = parts.guided(target, base_model, tmp_path / "corpus")(3000, 1)
    assert outcomes.total() == 3000
    assert outcomes["accepted"] > 100
    assert len(outcomes) > 10  # fields that were refused


def test_adapters(tmp_path: Path) -> None:
    outcomes = parts.adapters(tmp_path)(300, 1)
    assert outcomes["loaded"] > 30
    assert outcomes["refused"] > 150


def test_models_of_all_families(tmp_path: Path) -> None:
    outcomes = fuzz_models(tmp_path, 10, len(families()) + 1)
    assert outcomes["right with adapter"] > 2
    assert outcomes["refused"] > 0


@pytest.mark.server
@pytest.mark.parametrize("server", ["fused"], indirect=True, scope="session")
def test_the_server_and_the_gateway(
    server: Server, reference: Reference, tokenizer: Tokenizer
) -> None:
    health = Health(server.http, server.metrics)
    both = fuzz_http(server.http, 200, 1), fuzz_grpc(server.grpc.removeprefix("grpc://"), 200, 1)
    with running(server.grpc) as gateway:
        outcomes = [*both, fuzz_gateway(gateway.removesuffix("/v1"), 100, 1)]
    assert all(kinds["answered"] > 10 and kinds["refused"] > 10 for kinds in outcomes)
    ids = tokenizer.encode(parts.GOOD.text_input or "")
    health.check(parts.GOOD, parts.good_tokens(reference, ids))
