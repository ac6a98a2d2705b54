"""Where and how a measurement was made, and its file."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "triton", "transformers", "peft", "numpy", "tritonclient", "nvidia-pytriton")
_ROOT = Path(__file__).resolve().parents[1]


def circumstances(program: str) -> dict[str, Any]:
    """Hardware, command, commit and versions; the program by its path in the repository."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "threads_of_machine": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "command": shlex.join(["python", program, *_shown_arguments()]),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def save_result(result: Mapping[str, Any], path: Path) -> None:
    """Writes what was measured, and its circumstances, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _shown_arguments() -> list[str]:
    """The arguments with the home directory as ~, which is nobody else's business."""
    home = str(Path.home())
    return [argument.replace(home, "~") for argument in sys.argv[1:]]


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
