"""Finds a tritonserver: an installed one, or the one in the wheel of nvidia-pytriton."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from cold_backend.errors import ConfigError

_STUB = "triton_python_backend_stub"


@dataclass(frozen=True, slots=True)
class Installation:
    """How to start a tritonserver.

    Attributes:
        binary: the executable.
        arguments: what it needs on its command line.
        environment: what it needs beside the current environment.
    """

    binary: Path
    arguments: tuple[str, ...]
    environment: dict[str, str]


def find_tritonserver(workspace: Path) -> Installation:
    """The tritonserver on the PATH, else the wheel's, laid out in `workspace`.

    Raises:
        ConfigError: there is neither, or the wheel does not fit this Python.
    """
    installed = shutil.which("tritonserver")
    if installed:
        return Installation(Path(installed), (), {})
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("no tritonserver on the PATH; pip install nvidia-pytriton==0.7.0 has one")
    package = Path(spec.submodule_search_locations[0])
    return _from_wheel(package, workspace)


def _from_wheel(package: Path, workspace: Path) -> Installation:
    server = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / _STUB
    if not stub.is_file():
        raise ConfigError(f"nvidia-pytriton has no Python backend for Python {version}")
    backend = workspace / "backends" / "python"
    backend.mkdir(parents=True)
    # The wheel keeps the stubs, one for each Python, apart from the backend that looks for one.
    for part in (stub, *(server / "backends" / "python").iterdir()):
        (backend / part.name).symlink_to(part)
    libraries = [str(package.parent / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
    inherited = os.environ.get("LD_LIBRARY_PATH")
    return Installation(
        server / "bin" / "tritonserver",
        ("--backend-directory", str(backend.parent)),
        {"LD_LIBRARY_PATH": os.pathsep.join([*libraries, *([inherited] if inherited else [])])},
    )
