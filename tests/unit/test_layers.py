"""Imports go one way, and what is confined to one module stays there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FORBIDDEN = {
    "kernels": {"cold_backend", "cold_client", "cold_eval", "triton_python_backend_utils"},
    "cold_backend": {"cold_client", "cold_eval"},
    "client": {"cold_backend", "cold_eval", "cold_kernels", "torch", "transformers"},
    "model_repository": {
        "cold_client",
        "cold_eval",
        "triton_python_backend_utils",
        "transformers",
        "peft",
    },
    "evaluation": {"triton_python_backend_utils", "transformers", "peft"},
}
# The rooms of cold_backend, and which others each may import. The files beside them, which all may
# import, import no room, but for those that put the rooms together.
ROOMS = {
    "server": {"serving", "telemetry", "models", "adapters"},
    "serving": {"engine", "telemetry", "requests", "adapters", "text"},
    "engine": {"telemetry", "requests", "adapters"},
    "telemetry": {"requests"},
    "requests": {"adapters", "protocol", "text"},
    "decoding": {"models"},
    "models": {"adapters"},
    "adapters": {"protocol"},
    "protocol": set(),
    "text": set(),
}
TOGETHER = {
    "loading": {"adapters", "decoding", "models", "text"},
    "offline": {"engine", "requests", "telemetry"},
}
ALONE = {
    "triton_python_backend_utils": "cold_backend/serving/tritonserver.py",
    "torch_npu": "kernels/cold_kernels/device.py",
    "opentelemetry": "cold_backend/telemetry/tracing.py",
}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_go_down(folder: str) -> None:
    assert sources(folder)
    for path in sources(folder):
        assert not imports(path) & FORBIDDEN[folder], path


def rooms(path: Path) -> set[str]:
    """The rooms of cold_backend that a file imports from."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    parts = [module.split(".") for module in modules]
    return {part[1] for part in parts if part[0] == "cold_backend" and len(part) > 1} & ROOMS.keys()


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_as_architecture_md_says(room: str) -> None:
    for path in sources(f"cold_backend/{room}"):
        assert rooms(path) <= ROOMS[room] | {room}, path


def test_what_all_rooms_share_needs_none() -> None:
    folder = ROOT / "cold_backend"
    assert {path.parent.name for path in folder.glob("*/__init__.py")} == ROOMS.keys()
    for path in folder.glob("*.py"):
        assert rooms(path) <= TOGETHER.get(path.stem, set()), path


@pytest.mark.parametrize(("module", "home"), ALONE.items())
def test_confined_modules_have_one_home(module: str, home: str) -> None:
    users = [p for folder in FORBIDDEN for p in sources(folder) if module in imports(p)]
    assert [path.relative_to(ROOT).as_posix() for path in users] == [home]


def test_what_only_the_gateway_needs_is_not_needed_without_it() -> None:
    extra = {"pydantic", "pydantic_core", "starlette", "uvicorn"}
    users = {path.parent.name for path in sources("client") if imports(path) & extra}
    assert users == {"gateway"}


def test_no_asserts_and_no_long_files_outside_tests() -> None:
    for path in (p for folder in FORBIDDEN for p in sources(folder)):
        if path.name.startswith("test_"):
            continue
        tree = ast.parse(path.read_text())
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree)), path
        assert len(path.read_text().splitlines()) <= 300, path
