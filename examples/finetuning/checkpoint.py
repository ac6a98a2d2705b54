"""Resume checkpoints: one safetensors file, replaced in one step, nothing pickled."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

FILE_NAME = "checkpoint.safetensors"
STATE_KEY = "state"


class CheckpointError(Exception):
    """The checkpoint cannot be read or belongs to another run."""


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def save(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Writes adapter, optimizer state and `state` (plain JSON)."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in trainable(model).items():
        tensors[f"adapter/{name}"] = parameter.detach()
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer/{name}/{key}"] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata={STATE_KEY: json.dumps(state)})
    os.replace(part, path)


def load(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]
) -> dict[str, Any]:
    """Puts adapter and optimizer state back and returns the JSON state."""
    try:
        with safe_open(path, framework="pt") as file:
            state: dict[str, Any] = json.loads(file.metadata()[STATE_KEY])
            check_settings(path, state["settings"], settings)
            restore(file, model, optimizer)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"cannot resume from {path}: {error}") from error
    return state


def check_settings(path: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    changed = [
        f"{key} was {saved.get(key)} and is now {value}"
        for key, value in wanted.items()
        if saved.get(key) != value
    ]
    if changed:
        raise CheckpointError(f"{path} is of a run with other settings: {'; '.join(changed)}")


def restore(file: Any, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    names = set(file.keys())
    for name, parameter in trainable(model).items():
        parameter.data.copy_(file.get_tensor(f"adapter/{name}"))
        prefix = f"optimizer/{name}/"
        optimizer.state[parameter] = {
            key.removeprefix(prefix): file.get_tensor(key)
            for key in names
            if key.startswith(prefix)
        }
