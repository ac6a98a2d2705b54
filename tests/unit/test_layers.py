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
ALONE = {
    "triton_python_backend_utils": "cold_backend/server_io.py",
    "torch_npu": "kernels/cold_kernels/device.py",
    "opentelemetry": "cold_backend/tracing.py",
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
