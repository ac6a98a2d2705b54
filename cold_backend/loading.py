"""Builds the parts of a server from its settings."""

from __future__ import annotations

import os

import torch

from cold_backend.adapters import check_fit, load_adapter
from cold_backend.config import Settings
from cold_backend.contract import Reads
from cold_backend.errors import ConfigError
from cold_backend.language_model import LanguageModel, load_config, load_model
from cold_backend.lora import attach_adapters
from cold_backend.tokenizer import Tokenizer
from cold_kernels import KernelError, Ops, load_ops
from cold_kernels.device import DeviceError, choose_device


def load_base_lm(settings: Settings) -> LanguageModel:
    """The amateur: the base model alone, on the first device.

    Raises:
        ConfigError: the model cannot be used with these settings.
    """
    device = take_device(settings, 0)
    model = _load_weights(settings, device)
    return LanguageModel(
        model, Reads.BASE, slots=settings.max_sequences, context=settings.max_context
    )


def load_adapter_lm(settings: Settings) -> LanguageModel:
    """The expert: the base model with all adapters, on the second device if there is one.

    Raises:
        ConfigError: the model or an adapter cannot be used with these settings.
    """
    device = take_device(settings, 1)
    model = _load_weights(settings, device)
    adapters = [load_adapter(name, path) for name, path in settings.adapters.items()]
    for adapter in adapters:
        check_fit(adapter, model)
    lora = attach_adapters(model, adapters, ops_for(settings, device)) if adapters else None
    return LanguageModel(
        model,
        Reads.EXPERT,
        slots=settings.max_sequences,
        context=settings.max_context,
        lora=lora,
    )


def load_tokenizer(settings: Settings) -> Tokenizer:
    """The base model's tokenizer.

    Raises:
        ConfigError: the model directory has none.
    """
    config = load_config(settings.base_model)
    return Tokenizer(settings.base_model, config.get_text_config().vocab_size)


def ops_for(settings: Settings, device: torch.device) -> Ops:
    """The kernels for a device.

    Raises:
        ConfigError: the settings name kernels that do not exist.
    """
    try:
        return load_ops(settings.kernels, device)
    except KernelError as error:
        raise ConfigError(str(error)) from error


def take_device(settings: Settings, index: int) -> torch.device:
    """The device that this process uses, by number where there are several.

    On a CPU, where the two language models run side by side, also its share of the cores.

    Raises:
        ConfigError: this machine has no such device.
    """
    try:
        device = choose_device(settings.device, index)
    except DeviceError as error:
        raise ConfigError(str(error)) from error
    if device.type == "cpu":
        torch.set_num_threads(settings.threads or max(1, len(os.sched_getaffinity(0)) // 2))
    return device


def _load_weights(settings: Settings, device: torch.device) -> torch.nn.Module:
    config = load_config(settings.base_model)
    return load_model(settings.base_model, config, _dtype(settings.dtype, device), device)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype: torch.dtype = getattr(torch, name)
    return dtype
