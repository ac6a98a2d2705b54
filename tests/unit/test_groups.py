"""Groups of tests that are left out where a program is missing: tests/groups.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.groups import GROUPS

ROOT = Path(__file__).parents[2]
_PYTEST = ("-m", "pytest", "-p", "tests.groups", "-p", "no:cacheprovider")
SAMPLE = """
from tests.groups import find, needs

@needs("helm")
def test_chart(): assert find("helm").endswith("bin/helm")

@needs("helm", "bwrap")
def test_pod(): find("bwrap")

@needs("haproxy")
def test_undeclared(): find("promtool")

def test_other(): pass
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sample tests, and an empty `bin` for programs."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def run(folder: Path, *names: str, **environment: str) -> tuple[int, str]:
    """Runs the sample's tests of these names where only the folder's programs are installed."""
    inherited = {k: v for k, v in os.environ.items() if k != "COLD_TEST_GROUPS"}
    own = {"PATH": str(folder / "bin"), "PYTHONPATH": str(ROOT)}
    own["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    done = subprocess.run(
        [sys.executable, *_PYTEST, "-k", " or ".join(names)],
        cwd=folder,
        env={**inherited, **own, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def put(folder: Path, name: str, exit_code: int = 0) -> None:
    program = folder / "bin" / name
    program.write_text(f"#!/bin/sh\necho not permitted >&2\nexit {exit_code}\n")
    program.chmod(0o755)


def test_without_programs_the_groups_are_named_once(folder: Path) -> None:
    code, out = run(folder, "chart", "pod", "other")
    assert code == 0
    assert "1 passed, 3 deselected" in out
    assert out.count("left out: 2 of the tests") == 1
    assert re.search(r"^chart: 2 tests, for helm is not installed", out, re.MULTILINE)
    assert "deploy/install-test-tools.sh" in out


def test_where_all_are_wanted_the_run_does_not_start(folder: Path) -> None:
    code, out = run(folder, "chart", "other", COLD_TEST_GROUPS="all")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "passed" not in out
    assert "chart: helm is not installed" in out


def test_with_programs_nothing_is_left_out(folder: Path) -> None:
    for program in GROUPS:
        put(folder, program)
    code, out = run(folder, "chart", "pod", "other", COLD_TEST_GROUPS="all")
    assert code == 0
    assert "3 passed" in out
    assert "left out" not in out


def test_a_program_that_may_not_do_its_work_is_none(folder: Path) -> None:
    put(folder, "helm")
    put(folder, "bwrap", exit_code=1)
    code, out = run(folder, "chart", "pod")
    assert code == 0
    assert "1 passed, 3 deselected" in out
    assert "pods: 1 test, for bwrap does not work here (not permitted)" in out


def test_a_program_that_a_test_does_not_name_fails_it(folder: Path) -> None:
    put(folder, "haproxy")
    put(folder, "promtool")
    code, out = run(folder, "undeclared")
    assert code == 1
    assert "is not marked with needs('promtool')" in out


def test_every_program_is_installed_by_the_script() -> None:
    script = (ROOT / "deploy/install-test-tools.sh").read_text(encoding="utf-8")
    assert set(re.findall(r"^need (\S+) ", script, re.MULTILINE)) | {"helm"} == set(GROUPS)
