"""What is installed, and whether the check would notice that an index does not have it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from install.check import PLACES, Place, Set, resolve, sets_of
from install.commands import ROOT, Command, of_file, of_target, of_text

HERE = Place("here", "Dockerfile", "3.11", "2.35", ("x86_64",))
NO_GPU = not Path("/dev/nvidiactl").exists()


def wheel(folder: Path, name: str, *requires: str, tag: str = "py3-none-any") -> None:
    """Writes an empty wheel `name-1.0` with these requirements."""
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0"]
    metadata += [f"Requires-Dist: {each}" for each in requires]
    with zipfile.ZipFile(folder / f"{name}-1.0-{tag}.whl", "w") as archive:
        archive.writestr(f"{name}-1.0.dist-info/METADATA", "\n".join(metadata) + "\n")
        archive.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")


@pytest.fixture
def index(tmp_path: Path) -> tuple[str, ...]:
    """uv's options for a folder of wheels in the place of PyPI."""
    wheel(tmp_path, "torch", "triton==1.0", "cuda; platform_machine == 'x86_64'")
    wheel(tmp_path, "triton")
    wheel(tmp_path, "cuda", tag="py3-none-manylinux_2_28_x86_64")
    wheel(tmp_path, "newer", tag="cp312-cp312-manylinux_2_39_x86_64")
    wheel(tmp_path, "needs_local", "torch==1.0+cpu")
    return ("--no-index", "--find-links", str(tmp_path), "--no-cache")


def test_a_set_that_is_there(index: tuple[str, ...]) -> None:
    found = resolve(Set(HERE, "x86_64", ("torch",)), index)
    assert found == (["cuda==1.0", "torch==1.0", "triton==1.0"], "")


def test_each_processor_has_its_own_requirements(index: tuple[str, ...]) -> None:
    found = resolve(Set(HERE, "aarch64", ("torch",)), index)
    assert found == (["torch==1.0", "triton==1.0"], "")
    assert (
        "no wheels with a matching platform" in resolve(Set(HERE, "aarch64", ("cuda",)), index)[1]
    )


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("torch", "triton==3.9.0"), "no version of triton==3.9.0"),
        (("torch==2.0",), "no version of torch==2.0"),
        (("needs_local",), r"no version of torch==1.0\+cpu"),
        (("newer",), "no wheels with a matching"),
        (("nowhere",), "nowhere was not found"),
    ],
)
def test_a_set_that_is_not(lines: tuple[str, ...], said: str, index: tuple[str, ...]) -> None:
    packages, complaint = resolve(Set(HERE, "x86_64", lines), index)
    assert not packages
    assert re.search(said, complaint), complaint


def test_what_is_installed_alone_may_lack_requirements(index: tuple[str, ...]) -> None:
    alone = Set(HERE, "x86_64", ("needs_local",), dependencies=False)
    assert resolve(alone, index) == (["needs-local==1.0"], "")


def test_settings_of_the_machine_are_not_read(
    index: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders of wheels, indexes and constraints that a user has set."""
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    (tmp_path / "pins.txt").write_text("triton==2.0")
    monkeypatch.setenv("UV_CONSTRAINT", str(tmp_path / "pins.txt"))
    assert not resolve(Set(HERE, "x86_64", ("torch",)), index)[1]
    assert "not found" in resolve(Set(HERE, "x86_64", ("torch",)), ("--no-index", "--no-cache"))[1]


def test_commands_are_read_as_a_shell_does() -> None:
    text = """
    # pip install nothing
    "${pip[@]}" install -q -c pins.txt \\
        --no-build-isolation -e './client[openai]' && x/bin/python -m pip uninstall --yes torch
    RUN python3 -m pip --python /opt/p install --no-cache-dir --no-deps . 'numpy<2' -r a.txt; true
    """
    client = Command((), ("./client[openai]",), (), ("pins.txt",), True, False)
    root = Command(("numpy<2",), (".",), ("a.txt",), (), False, True)
    assert of_text(text) == [client, root]


def test_an_unknown_option_is_not_passed_over() -> None:
    with pytest.raises(SystemExit):
        of_text("pip install --index-url https://example.org torch")


def scripts() -> list[str]:
    """Dockerfiles and shell scripts, by their paths in the repository."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = listed.stdout.split()
    return [path for path in paths if path.endswith(".sh") or "Dockerfile" in Path(path).name]


def test_everything_that_is_installed_is_checked() -> None:
    checked = [command for place in PLACES for command in place.commands()]
    targets = re.findall(r"^(\w[\w-]*):", MAKEFILE, re.MULTILINE)
    assert {"setup", "test", "bench", "npu-test"} <= set(targets)
    for target in targets:
        assert not set(of_target(target)) - set(checked), target
    for script in scripts():
        assert not set(of_file(script)) - set(checked), script


MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_every_place_is_understood(place: Place) -> None:
    found = sets_of(place)
    assert {each.machine for each in found} == set(place.machines)
    for each in found:
        assert each.lines
        for line in each.lines:
            if line.startswith(("-r ", "-c ")):
                assert (ROOT / line[3:]).is_file(), line


def said(program: str, *arguments: str, **environment: str) -> tuple[int, list[str]]:
    """The exit code of a script of install/, and the lines that it prints."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
    done = subprocess.run(
        [ROOT / "install" / program, *arguments],
        env={**inherited, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


def python(folder: Path, version: str, otherwise: str = "exit 1") -> Path:
    """A program that says that it is Python of this version, and does nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nif [ "$1" = -c ]; then echo {version}; else {otherwise}; fi\n')
    path.chmod(0o755)
    return path


def test_another_python_is_refused(tmp_path: Path) -> None:
    code, lines = said("venv.sh", str(tmp_path / "venv"), PYTHON=str(python(tmp_path, "3.13")))
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith(f"setup: needs Python 3.11, and {tmp_path}/python is none")
    assert not (tmp_path / "venv").exists()


def test_an_environment_of_another_python_is_refused(tmp_path: Path) -> None:
    venv = tmp_path / "my venv"
    python(venv / "bin", "3.12")
    code, lines = said("venv.sh", str(venv))
    assert code == 1
    assert lines == [
        f"setup: the environment in {venv} has Python 3.12, and 3.11 is needed: rm -r '{venv}'"
    ]


def test_a_half_made_environment_is_taken_away(tmp_path: Path) -> None:
    """As Debian's Python leaves it without the package python3-venv."""
    given = python(tmp_path, "3.11", otherwise='mkdir -p "$3/bin"; echo no ensurepip; exit 1')
    venv = tmp_path / "venv"
    code, lines = said("venv.sh", str(venv), PYTHON=str(given))
    assert code == 1
    assert lines[0] == "no ensurepip"
    assert "apt-get install python3-venv" in lines[1]
    assert not venv.exists()


@pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")
def test_what_is_downloaded_without_need_is_said_before(tmp_path: Path) -> None:
    python(tmp_path / "bin", "0", otherwise="true")
    (tmp_path / "bin/python").write_text("#!/bin/sh\nexit 1\n")  # has no torch
    code, lines = said("say_size.sh", str(tmp_path))
    assert code == 0
    assert any("PIP_EXTRA_INDEX_URL=" in line for line in lines)
    given = {"PIP_EXTRA_INDEX_URL": "https://example.org"}
    assert said("say_size.sh", str(tmp_path), **given) == (0, [])
    (tmp_path / "bin/python").write_text("#!/bin/sh\nexit 0\n")  # has it
    assert said("say_size.sh", str(tmp_path)) == (0, [])


@pytest.mark.skipif(Path("/dev/davinci0").exists(), reason="this machine has an NPU")
def test_without_an_npu_its_tests_say_so() -> None:
    code, lines = said("npu.sh")
    assert (code, len(lines)) == (1, 1)
    assert "needs an Ascend NPU" in lines[0]


def test_the_check_says_what_it_does() -> None:
    """CI runs the whole, which asks PyPI."""
    done = subprocess.run(
        [sys.executable, "-m", "install.check", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "PyPI" in done.stdout
