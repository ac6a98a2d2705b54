"""What the server serves: the repository index and the parameters of the model `cold`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ._exceptions import ProtocolError
from ._protocol import MODEL
from ._types import Model


def has_config(models: Sequence[Model]) -> bool:
    """Whether the server can be asked for the configuration of `cold`."""
    return any(model.name == MODEL and model.state == "READY" for model in models)


def with_config(models: Sequence[Model], parameters: Mapping[str, str]) -> list[Model]:
    """The models, with what the configuration of `cold` says filled in. Raises ProtocolError."""
    return [_filled(model, parameters) if model.name == MODEL else model for model in models]


def _filled(model: Model, parameters: Mapping[str, str]) -> Model:
    max_context = parameters.get("max_context")
    try:
        return replace(
            model,
            adapters=tuple(map(str, json.loads(parameters.get("adapters") or "[]"))),
            adapters_dir=parameters.get("adapters_dir") == "true",
            default_adapter=parameters.get("default_adapter") or None,
            adapter_defaults=dict(json.loads(parameters.get("adapter_defaults") or "{}")),
            base_model=parameters.get("base_model") or None,
            max_context=int(max_context) if max_context else None,
        )
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"configuration of {MODEL}: {error}") from error
