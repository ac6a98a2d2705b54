"""What the project's files tell pip to install."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Command:
    """One `pip install` or `pip download`.

    Attributes:
        names: packages of an index, as requirements.
        projects: of this repository: a folder, perhaps with extras, as in `./client[openai]`.
        files: of requirements (`-r`).
        constraints: files of constraints (`-c`).
        dependencies: whether what they require is installed with them.
        isolated: whether the projects are built in an environment of their own.
    """

    names: tuple[str, ...]
    projects: tuple[str, ...]
    files: tuple[str, ...]
    constraints: tuple[str, ...]
    dependencies: bool
    isolated: bool


def of_file(path: str) -> list[Command]:
    """The commands of a Dockerfile or a shell script, by its path in the repository."""
    return of_text((ROOT / path).read_text(encoding="utf-8"))


def of_target(target: str) -> list[Command]:
    """The commands of a target of the Makefile and of what it needs."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "MFLAGS"}
    dry_run = ["make", "--no-print-directory", "--dry-run", "--always-make", target]
    done = subprocess.run(
        dry_run, cwd=ROOT, env=inherited, capture_output=True, text=True, check=True
    )
    return of_text(done.stdout)


def of_text(text: str) -> list[Command]:
    """The commands of shell lines."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    parts = re.split(r"&&|\|\||;|\n", lines.replace("\\\n", " "))
    found = (re.search(r"\bpip\b.*?\s(?:install|download)\s(.*)", part) for part in parts)
    return [_command(shlex.split(match[1])) for match in found if match]


def _command(words: list[str]) -> Command:
    given = _parser().parse_intermixed_args(words)
    plain = [name for name in given.names if not name.startswith(".")]
    projects = [name for name in given.names if name.startswith(".")]
    return Command(
        names=tuple(plain),
        projects=(*given.editable, *projects),
        files=tuple(given.requirement),
        constraints=tuple(given.constraint),
        dependencies=not given.no_deps,
        isolated=not given.no_build_isolation,
    )


def _parser() -> argparse.ArgumentParser:
    """Reads the options that the files use; another one ends the program, so none is misread."""
    parser = argparse.ArgumentParser(prog="pip install", add_help=False, allow_abbrev=False)
    parser.add_argument("names", nargs="*")
    for short, long in (("-e", "--editable"), ("-r", "--requirement"), ("-c", "--constraint")):
        parser.add_argument(short, long, action="append", default=[])
    for flag in ("--no-deps", "--no-build-isolation", "--no-cache-dir", "--require-hashes"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("-q", "--quiet", action="store_true")
    parser.add_argument("-d", "--dest")
    parser.add_argument("--progress-bar")
    return parser
