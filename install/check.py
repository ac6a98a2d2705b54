"""Whether PyPI alone has every set of packages that the project installs.

Nothing is installed and no wheel is fetched whole: each set is resolved by uv in a dry run, for its
own Python and processor, with none of this machine's settings for pip.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from install.commands import ROOT, Command, of_file, of_target

UV = Path(sys.executable).parent / "uv"
# Has no wheel; everything else must have one, for each processor.
BUILT_FROM_SOURCE = ("rouge-score",)


@dataclass(frozen=True)
class Place:
    """Where packages are installed together.

    Attributes:
        name: what installs them.
        source: the Dockerfile or script that does, or `make` and a target of the Makefile.
        python: its version.
        libc: the version of glibc that wheels may want at most.
        machines: the processors that it is for.
    """

    name: str
    source: str
    python: str
    libc: str
    machines: tuple[str, ...]

    def commands(self) -> list[Command]:
        """What is installed there."""
        program, _, target = self.source.partition(" ")
        return of_target(target) if program == "make" else of_file(self.source)


BOTH = ("x86_64", "aarch64")
PLACES = (
    Place("make setup", "make setup", "3.11", "2.35", BOTH),
    Place("make ascend-check", "kernels/ascend/install.sh", "3.11", "2.35", BOTH),
    # torch-npu for x86_64 wants a torch that PyPI does not have.
    Place("make npu-test", "make npu-test", "3.11", "2.35", ("aarch64",)),
    Place("Dockerfile.ascend", "Dockerfile.ascend", "3.11", "2.35", ("aarch64",)),
    Place("Dockerfile", "Dockerfile", "3.12", "2.39", BOTH),
    # vLLM's libraries of Intel, and Helm, are for x86_64 alone.
    Place("make bench: the peers", "make peers", "3.11", "2.35", ("x86_64",)),
    Place("the test programs", "deploy/install-test-tools.sh", "3.11", "2.35", ("x86_64",)),
)


@dataclass(frozen=True)
class Set:
    """Packages that must go together.

    Attributes:
        place: where.
        machine: for which processor.
        lines: of a requirements file.
        dependencies: whether what they require is among them.
    """

    place: Place
    machine: str
    lines: tuple[str, ...]
    dependencies: bool = True

    @property
    def title(self) -> str:
        alone = "" if self.dependencies else ", without what they require"
        return f"{self.place.name}, Python {self.place.python}, {self.machine}{alone}"


def main() -> None:
    """Checks all sets, says which cannot be had and why, and ends with 1 if there is one."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    sets = [each for place in PLACES for each in sets_of(place)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(4) as pool:
        options = ("--cache-dir", f"{folder}/cache")  # and uv's own index, which is PyPI
        complaints = list(pool.map(lambda each: _said(each, options), sets))
    failed = sum(map(bool, complaints))
    print(f"{len(sets)} sets of packages, {failed} of them not to be had from PyPI")
    sys.exit(failed > 0)


def sets_of(place: Place) -> list[Set]:
    """Its sets for each processor: what is installed with all requirements, and what without."""
    commands = place.commands()
    if not commands:
        raise ValueError(f"{place.source} installs nothing: it is misread")
    wanted = (
        Set(place, machine, _lines(chosen), dependencies)
        for machine in place.machines
        for dependencies in (True, False)
        if (chosen := [each for each in commands if each.dependencies is dependencies])
    )
    return [*wanted, *_builds(place, commands)]


def resolve(wanted: Set, options: Sequence[str]) -> tuple[list[str], str]:
    """The packages with their versions, and the complaint if there is no such set.

    Args:
        options: of uv: the index, the cache.
    """
    libc = wanted.place.libc.replace(".", "_")
    command: list[str | Path] = [UV, "pip", "compile", "-", "--quiet", "--no-config"]
    command += ["--python", sys.executable, "--python-version", wanted.place.python]
    command += ["--python-platform", f"{wanted.machine}-manylinux_{libc}"]
    command += ["--no-header", "--no-annotate", "--only-binary", ":all:"]
    for name in BUILT_FROM_SOURCE:
        command += ["--no-binary", name]
    if not wanted.dependencies:
        command.append("--no-deps")
    done = subprocess.run(
        [*command, *options],
        input="\n".join(wanted.lines),
        cwd=ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.split(), done.stderr.strip() if done.returncode else ""


def _said(wanted: Set, options: Sequence[str]) -> str:
    packages, complaint = resolve(wanted, options)
    found = complaint or f"{len(packages)} packages"
    print(f"{'FAILED' if complaint else 'ok':6} {wanted.title}: {found}", flush=True)
    return complaint


def _lines(commands: Sequence[Command]) -> tuple[str, ...]:
    lines: list[str] = []
    for each in commands:
        lines += each.names
        lines += [f"-e {project}" for project in each.projects]
        lines += [f"-r {file}" for file in each.files]
        lines += [f"-c {file}" for file in each.constraints]
        if not each.isolated:
            lines += _build_requirements(each.projects)
    return tuple(dict.fromkeys(lines))


def _builds(place: Place, commands: Sequence[Command]) -> list[Set]:
    """What pip fetches beside them to build the projects."""
    lines = [
        line for each in commands if each.isolated for line in _build_requirements(each.projects)
    ]
    built = Place(f"{place.name}: to build", place.source, place.python, place.libc, place.machines)
    return [Set(built, machine, tuple(lines)) for machine in place.machines if lines]


def _build_requirements(projects: Sequence[str]) -> list[str]:
    found: list[str] = []
    for project in projects:
        file = ROOT / project.partition("[")[0] / "pyproject.toml"
        found += tomllib.loads(file.read_text(encoding="utf-8"))["build-system"]["requires"]
    return found


def _environment() -> dict[str, str]:
    """Ours without settings for pip and uv, but for the certificates that the network needs."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_"))}
    if "PIP_CERT" in os.environ:
        kept.setdefault("SSL_CERT_FILE", os.environ["PIP_CERT"])
    return {**kept, "PIP_CONFIG_FILE": os.devnull, "UV_PYTHON_DOWNLOADS": "never"}


if __name__ == "__main__":
    main()
