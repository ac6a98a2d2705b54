"""The model repository of one running server: the project's, plus this server's parameters."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import cold_backend
from cold_backend.adapters.defaults import AdapterDefaults, read_defaults
from cold_backend.config import Settings

_FUSED = "cold"  # the one model that a fused execution needs


def write_repository(
    target: Path,
    settings: Settings,
    for_all: dict[str, str],
    for_cold: dict[str, str],
    *,
    fused: bool,
) -> None:
    """Copies the models that the execution needs and adds parameters to their configs.

    Args:
        target: where to.
        settings: of which some tell clients, through tritonserver's model configuration API, what
            is being served.
        for_all: parameters that all models read.
        for_cold: parameters that `cold` reads.
        fused: whether `cold` is the only model.
    """
    source = _source()
    models = [_FUSED] if fused else [path.name for path in source.iterdir()]
    for model in models:
        shutil.copytree(
            source / model, target / model, ignore=shutil.ignore_patterns("__pycache__")
        )
    for config in target.glob("*/config.pbtxt"):
        _add_parameters(config, for_all)
    found = {name: read_defaults(Path(path)) for name, path in settings.adapters.items()}
    defaults = {
        name: dataclasses.asdict(own, dict_factory=_given)
        for name, own in found.items()
        if own != AdapterDefaults()
    }
    served = {
        "base_model": Path(settings.base_model).name,
        "adapters": json.dumps(settings.adapter_names),
        "adapters_dir": json.dumps(bool(settings.adapters_dir)),
        "default_adapter": settings.default_adapter,
        "adapter_defaults": json.dumps(defaults),
        "max_context": str(settings.max_context),
        "max_sequences": str(settings.max_sequences),
    }
    _add_parameters(target / "cold" / "config.pbtxt", for_cold | served)


def _given(fields: list[tuple[str, object]]) -> dict[str, object]:
    return {name: value for name, value in fields if value is not None}


def _source() -> Path:
    """The model repository: inside the installed package, or beside it in a checkout."""
    package = Path(cold_backend.__file__).parent
    inside = package / "model_repository"
    return inside if inside.is_dir() else package.parent / "model_repository"


def _add_parameters(config: Path, parameters: dict[str, str]) -> None:
    with config.open("a", encoding="utf-8") as file:
        for key, value in parameters.items():
            # JSON's escapes are those of protobuf's text format.
            text = json.dumps(value)
            file.write(f'parameters {{ key: "{key}" value {{ string_value: {text} }} }}\n')
