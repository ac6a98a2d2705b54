"""Programs that start a server and load it, for seconds; tests/load has what they measure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.programs.conftest import Start

pytestmark = pytest.mark.server


@pytest.fixture
def models(small_model: Path, small_adapter: Path) -> tuple[object, ...]:
    return ("--base-model", small_model, "--adapter", f"small={small_adapter}")


def test_run(start: Start, models: tuple[object, ...], tmp_path: Path) -> None:
    load = ("--levels", 2, "--requests", 10, "--duration", "20s", "--max-tokens", 4)
    checks = ("--fail-if", "error_share > 0", "--report", tmp_path)
    start("load_tests/run.py", *models, "--", *load, *checks)
    figures = json.loads((tmp_path / "load.json").read_text())["figures"]
    assert figures["sent"] >= 10 and not figures["error"]


def test_overload(start: Start, models: tuple[object, ...], tmp_path: Path) -> None:
    short = ("--first-rate", 1000, "--search-s", 1, "--seconds", 2, "--max-tokens", 4)
    limits = ("--slo", "ttft_ms:60000", "--slo", "itl_ms:60000", "--report", tmp_path)
    # The code says whether the bars were met, which depends on what else runs.
    start("load_tests/overload.py", *models, *short, *limits, code=None)
    found = json.loads((tmp_path / "overload.json").read_text())
    assert [offer["factor"] for offer in found["offers"]][-3:] == [1, 2, 4]
    assert found["checks"]["every request had one final answer"]
    assert (tmp_path / "overload.png").stat().st_size > 10_000


def test_dashboard_picture(start: Start, models: tuple[object, ...], tmp_path: Path) -> None:
    path = tmp_path / "dashboard.png"
    quick = ("--execution", "fused", "--duration", "2s", "--out", path)
    start("-m", "deploy.grafana.picture", *models, *quick)
    assert path.stat().st_size > 40_000


def test_fuzz(start: Start, base_model: Path, adapter: Path) -> None:
    shared = ("--base-model", base_model, "--adapter", f"equations={adapter}")
    printed = start("-m", "tests.fuzz", *shared, "--inputs", 400)
    assert "400 inputs, none with a wrong outcome" in printed
