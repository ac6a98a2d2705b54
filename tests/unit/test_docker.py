"""The Dockerfiles, as far as they can be checked without building them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILES = ("Dockerfile", "Dockerfile.ascend")
PROJECTS = ("pyproject.toml", "kernels/pyproject.toml", "client/pyproject.toml")


def instructions(dockerfile: str) -> list[str]:
    """One string per instruction, without comments and continuations."""
    lines = (ROOT / dockerfile).read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    return [line for line in text.replace("\\\n", " ").splitlines() if line]


def pip_targets(dockerfile: str) -> list[str]:
    """What the RUN lines give `pip install` to install."""
    found: list[str] = []
    for line in instructions(dockerfile):
        if not line.startswith("RUN "):
            continue
        for command in re.split(r"&&|;|\|\|", line.removeprefix("RUN ")):
            words = shlex.split(command)
            if "pip" in words and "install" in words:
                found += targets_of(words[words.index("install") + 1 :])
    return found


def targets_of(arguments: list[str]) -> list[str]:
    options_before = ["", *arguments]
    return [
        word
        for before, word in zip(options_before, arguments, strict=False)
        if not word.startswith("-") and before not in ("-c", "--constraint")
    ]


def declared_requirements() -> set[str]:
    """Names of all requirements of the three projects."""
    requirements: list[str] = []
    for path in PROJECTS:
        project = tomllib.loads((ROOT / path).read_text(encoding="utf-8"))["project"]
        requirements += project["dependencies"]
        for extra in project.get("optional-dependencies", {}).values():
            requirements += extra
    return {re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in requirements}


def local_project(target: str) -> tuple[Path, set[str]]:
    """Directory and extras of a target like `./client` or `.[server]`."""
    path, _, extras = target.partition("[")
    return ROOT / path, set(filter(None, extras.rstrip("]").split(",")))


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
def test_packages_are_declared_or_pinned(dockerfile: str) -> None:
    targets = pip_targets(dockerfile)
    assert {"./kernels", "./client"} <= set(targets)
    for target in targets:
        if target.startswith("."):
            directory, extras = local_project(target)
            project = tomllib.loads((directory / "pyproject.toml").read_text(encoding="utf-8"))
            assert extras <= set(project["project"].get("optional-dependencies", {})), target
        else:
            pinned = re.fullmatch(r"[\w.-]+==[\w.+]+", target)
            assert pinned or target in declared_requirements(), target


def test_torch_is_the_constrained_one() -> None:
    """The separate installation of torch would otherwise be done twice."""
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    torch = [target for target in pip_targets("Dockerfile") if target.startswith("torch==")]
    assert torch
    assert set(torch) <= set(constraints)


def test_torch_npu_gets_its_own_torch() -> None:
    """Constraints would pull in another; torch-npu and torch must have the same version."""
    targets = dict(
        target.split("==") for target in pip_targets("Dockerfile.ascend") if "==" in target
    )
    assert targets["torch"] == targets["torch-npu"]
    assert "RUN sed -i -e '/^torch==/d'" in (ROOT / "Dockerfile.ascend").read_text(encoding="utf-8")


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
