"""A Hugging Face model directory: its configuration and its weights.

Nothing in a directory is run: no code that it names, no pickled weights. What transformers would
make up for is refused: weights that are missing, or of another shape.

transformers is imported late: a process that needs no model starts two seconds earlier.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from cold_backend.errors import ConfigError
from cold_backend.models.weight_files import LoadReport, check_files, check_found
from cold_backend.refusal import UnsupportedError, refusing

# Types of layers, as configurations call them.
_WITH_STATE = {"conv", "hybrid", "hybrid_sliding", "linear_attention", "mamba", "recurrent"}
_NO_INTERFACE = "models that do not use transformers' attention interface are not supported"


def load_config(path: str) -> Any:
    """Reads a model directory's configuration.

    Raises:
        ConfigError: no such directory, or no model that can be served.
    """
    if not (Path(path) / "config.json").is_file():
        raise ConfigError(f"base_model: {path} is not a Hugging Face model directory")
    from transformers import AutoConfig

    with refusing(f"base_model: {path}"):
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        _check_plain(path, config)
    return config


def context_limit(config: Any) -> int:
    """The longest sequence that a model can hold, in tokens."""
    text = config.get_text_config()
    longest = int(getattr(text, "max_position_embeddings", None) or 1 << 20)
    # These scale by the longest sequence of a forward, which would let a batch change its rows;
    # below the original length they do not scale.
    scaling = [rope for rope in _ropes(text) if rope.get("rope_type") in ("dynamic", "longrope")]
    return min(
        [longest, *(int(r.get("original_max_position_embeddings") or longest) for r in scaling)]
    )


def load_model(path: str, config: Any, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Loads a model's weights from safetensors.

    Raises:
        ConfigError: weights are missing, broken or of other shapes, or the architecture is
            unsupported.
    """
    model = _loaded(path, config, dtype=dtype).requires_grad_(False).to(device)
    with refusing(f"base_model: {path}"):
        _check_finite(model)
    return model


def check_model(path: str, config: Any) -> nn.Module:
    """Checks a directory as `load_model` does, without reading the weights' values.

    Returns:
        As `empty_model`.

    Raises:
        ConfigError: as `load_model`.
    """
    from cold_backend.models.packed_transformer import try_architecture

    model = _loaded(path, config, device_map="meta")
    with refusing(f"base_model: {type(model).__name__} cannot be served"):
        try_architecture(model)
    return model


def empty_model(config: Any) -> nn.Module:
    """The model's modules without memory behind them, to check adapters against.

    Raises:
        ConfigError: the configuration is not that of a causal language model.
    """
    from transformers import AutoModelForCausalLM

    with refusing("base_model"), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def _loaded(path: str, config: Any, **options: Any) -> nn.Module:
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    from cold_backend.models.attention import ATTENTION_NAME

    disable_progress_bar()  # half a second of it among the lines of a log
    with refusing(f"base_model: {path}"):
        _check_depth(config, check_files(Path(path)))
        with LoadReport():
            try:
                model, found = AutoModelForCausalLM.from_pretrained(
                    path,
                    config=config,
                    local_files_only=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                    attn_implementation=ATTENTION_NAME,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # told by `found`
                    **options,
                )
            except KeyError as error:
                if error.args == (ATTENTION_NAME,):
                    raise UnsupportedError(_NO_INTERFACE) from error
                raise
        check_found(model, found)
        _check_architecture(model)
    loaded: nn.Module = model.eval()
    return loaded


def _check_plain(path: str, config: Any) -> None:
    """Refuses what would load something else than this directory's plain weights."""
    for part in (config, config.get_text_config()):
        quantised = getattr(part, "quantization_config", None)
        if quantised:
            method = getattr(quantised, "quant_method", None) or dict(quantised).get("quant_method")
            raise ConfigError(
                f"base_model: {path} is quantised ({method or 'unknown method'}), which is not "
                "supported; use the model's plain weights"
            )
    if getattr(config, "transformers_weights", None):
        raise ConfigError(f"base_model: {path}: transformers_weights in config.json: not supported")
    if (Path(path) / "adapter_config.json").exists():
        raise ConfigError(
            f"base_model: {path} holds a PEFT adapter, which would become part of the base; "
            "serve it with --adapter"
        )


def _check_depth(config: Any, tensors: int) -> None:
    """Refuses more layers than there can be weights for, before a module is made for each."""
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and layers > tensors:
        raise ConfigError(
            f"base_model: num_hidden_layers in config.json is {layers}, but there are weights of "
            f"{tensors} tensors alone"
        )


def _check_architecture(model: Any) -> None:
    """Refuses what is known not to run packed; `comparison` finds the rest.

    Raises:
        UnsupportedError: the layers do more than attention that can be exchanged.
    """
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ()
    with_state = sorted(_WITH_STATE.intersection(kinds))
    if with_state or getattr(model, "_is_stateful", False):
        of = f" ({', '.join(with_state)})" if with_state else ""
        raise UnsupportedError(
            f"{type(model).__name__} has layers that keep a state of their own{of}, which is not "
            "supported"
        )
    if not model._can_set_attn_implementation():
        raise UnsupportedError(f"{type(model).__name__}: {_NO_INTERFACE}")


def _check_finite(model: nn.Module) -> None:
    for name, weight in model.named_parameters():
        # A sum shows what is not finite, without a copy of the weight.
        if weight.is_floating_point() and not weight.sum(dtype=torch.float32).isfinite():
            raise ConfigError(f"base_model: {name} holds values that are not finite")


def _ropes(text: Any) -> list[dict[str, Any]]:
    """The parameters of rotary embeddings: one set, or one for each type of layer."""
    rope = getattr(text, "rope_parameters", None) or {}
    return [rope, *(of_type for of_type in rope.values() if isinstance(of_type, dict))]
