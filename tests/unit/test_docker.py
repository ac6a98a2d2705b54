"""The Dockerfiles, as far as they can be checked without building them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from install.commands import of_file

ROOT = Path(__file__).parents[2]
DOCKERFILES = ("Dockerfile", "Dockerfile.ascend")


def instructions(dockerfile: str) -> list[str]:
    """One string per instruction, without comments and continuations."""
    lines = (ROOT / dockerfile).read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    return [line for line in text.replace("\\\n", " ").splitlines() if line]


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_hadolint_finds_nothing(dockerfile: str) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    result = subprocess.run(
        [hadolint, "--failure-threshold", "ignore", ROOT / dockerfile],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_only_files_and_projects_are_installed(dockerfile: str) -> None:
    commands = of_file(dockerfile)
    assert not [name for command in commands for name in command.names]
    projects = [project for command in commands for project in command.projects]
    assert {"./kernels", "./client"} <= set(projects)
    for project in projects:
        folder, _, extras = project.partition("[")
        text = (ROOT / folder / "pyproject.toml").read_text(encoding="utf-8")
        known = tomllib.loads(text)["project"].get("optional-dependencies", {})
        assert set(filter(None, extras.rstrip("]").split(","))) <= set(known), project


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_torch_is_installed_first_and_kept(dockerfile: str) -> None:
    """Else the rest would install another one over it."""
    first, *rest = of_file(dockerfile)
    assert len(first.files) == 1
    for command in rest:
        assert command.constraints == ("constraints.txt", *first.files)


def test_torch_npu_gets_its_own_torch() -> None:
    lines = (ROOT / "install/npu.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    assert pins["torch"] == pins["torch-npu"]


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_copied_files_are_in_the_build_context(dockerfile: str) -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for line in instructions(dockerfile):
        if line.startswith("COPY "):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored, source


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_runs_as_a_user_and_says_its_health(dockerfile: str) -> None:
    text = "\n".join(instructions(dockerfile))
    assert re.search(r"^USER (?!root)", text, re.MULTILINE)
    assert "/v2/models/cold/ready" in text
    assert re.search(r'^ENTRYPOINT \["cold-server", "--host", "0.0.0.0"', text, re.MULTILINE)
