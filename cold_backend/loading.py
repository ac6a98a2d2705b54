"""Builds the parts of a server from its settings."""

from __future__ import annotations

from functools import partial

import torch

from cold_backend.adapters.adapter import check_fit, load_adapter
from cold_backend.adapters.loader import AdapterLoader
from cold_backend.adapters.store import AdapterStore
from cold_backend.config import Settings
from cold_backend.contract import Reader
from cold_backend.decoding.execution import FusedExecution
from cold_backend.errors import ConfigError
from cold_backend.models.block_count import block_count, context_that_fits
from cold_backend.models.checkpoint import context_limit, empty_model, load_config, load_model
from cold_backend.models.language_model import LanguageModel, Network
from cold_backend.models.llama import Llama, is_lean
from cold_backend.models.lora import AdapterSet, attach_adapters
from cold_backend.refusal import refusing
from cold_backend.text.tokenizer import Tokenizer
from cold_kernels import KernelError, Ops, load_ops
from cold_kernels.device import DeviceError, choose_device

# As many as there are cores, or as OMP_NUM_THREADS says. The process's affinity does not tell:
# OpenMP leaves the first thread one core when it binds its threads.
_THREADS = torch.get_num_threads()

# Of adapters that were read and not yet put into the models; one without a place is read again.
_STORE_BYTES = 256 << 20


def load_base_lm(settings: Settings) -> LanguageModel:
    """The amateur: the base model alone, on the first device.

    Raises:
        ConfigError: the model cannot be used with these settings.
    """
    return _load(settings, take_device(settings, 0, of=2), AdapterSet(), (Reader.BASE,))


def load_adapter_lm(settings: Settings) -> LanguageModel:
    """The expert: the base model with all adapters, on the second device if there is one.

    Raises:
        ConfigError: the model or an adapter cannot be used with these settings.
    """
    device = take_device(settings, 1, of=2)
    return _load(settings, device, _load_adapters(settings), (Reader.EXPERT,), load_store(settings))


def is_fused(settings: Settings) -> bool:
    """Whether steps are executed in one process, which they are by default on one device.

    Raises:
        ConfigError: this machine has no such device.
    """
    if settings.execution == "auto":
        return _device(settings, 0) == _device(settings, 1)
    return settings.execution == "fused"


def load_fused(settings: Settings, store: AdapterStore | None = None) -> FusedExecution:
    """Expert and base on one device, over one copy of the weights.

    Args:
        settings: of the server.
        store: from which adapters are put in while it runs.

    Raises:
        ConfigError: the model or an adapter cannot be used with these settings.
    """
    model = load_fused_lm(settings, store)
    return FusedExecution(model, ops_for(settings, take_device(settings, 0)))


def load_fused_lm(settings: Settings, store: AdapterStore | None = None) -> LanguageModel:
    """What the fused execution runs: the rows of expert and base.

    Raises:
        ConfigError: the model or an adapter cannot be used with these settings.
    """
    readers = (Reader.EXPERT, Reader.BASE)
    return _load(settings, take_device(settings, 0), _load_adapters(settings), readers, store)


def load_store(settings: Settings, *, keeps: bool = False) -> AdapterStore | None:
    """Reads adapters of adapters_dir; None if the settings name none.

    Args:
        settings: of the server.
        keeps: whether the models take from it what a request has had read.

    Raises:
        ConfigError: the model's configuration cannot be used.
    """
    if not settings.adapters_dir:
        return None
    model = empty_model(load_config(settings.base_model))
    loader = AdapterLoader(model, settings.max_lora_rank)
    return AdapterStore(loader, _STORE_BYTES if keeps else 0)


def load_tokenizer(settings: Settings) -> Tokenizer:
    """The base model's tokenizer.

    Raises:
        ConfigError: the model directory has none.
    """
    config = load_config(settings.base_model)
    with refusing("base_model"):
        vocab_size = config.get_text_config().vocab_size
    return Tokenizer(settings.base_model, vocab_size)


def ops_for(settings: Settings, device: torch.device) -> Ops:
    """The kernels for a device.

    Raises:
        ConfigError: the settings name kernels that do not exist.
    """
    try:
        return load_ops(settings.kernels, device)
    except KernelError as error:
        raise ConfigError(str(error)) from error


def default_context(settings: Settings, model: torch.nn.Module) -> int:
    """Tokens of a request where nobody says how many: the model's limit, if there is memory.

    Args:
        settings: of the server.
        model: its architecture, without values.
    """
    device = _device(settings, 0)
    limit = context_limit(model.config)
    dtype = _dtype(settings.dtype, device)
    return context_that_fits(settings, model, limit, dtype, device)


def take_device(settings: Settings, index: int, *, of: int = 1) -> torch.device:
    """The device that this process uses, by number where there are several.

    On a CPU also its share of the cores, where several processes run side by side.

    Raises:
        ConfigError: this machine has no such device.
    """
    device = _device(settings, index)
    if device.type == "cpu":
        torch.set_num_threads(settings.threads or max(1, _THREADS // of))
    if device.type == "cuda":
        # Where it may, torch attends with cuDNN, which makes a plan, in tens of milliseconds, for
        # every length and number of tokens.
        torch.backends.cuda.enable_cudnn_sdp(False)
    return device


def _device(settings: Settings, index: int) -> torch.device:
    try:
        return choose_device(settings.device, index)
    except DeviceError as error:
        raise ConfigError(str(error)) from error


def _load(
    settings: Settings,
    device: torch.device,
    adapters: AdapterSet,
    readers: tuple[Reader, ...],
    store: AdapterStore | None = None,
) -> LanguageModel:
    config = load_config(settings.base_model)
    model = load_model(settings.base_model, config, _dtype(settings.dtype, device), device)
    for adapter in adapters.fixed:
        check_fit(adapter, model)
    with refusing(f"base_model: {type(model).__name__} cannot be served"):
        network = checked_network(model, adapters, ops_for(settings, device), settings.max_context)
    devices = [_device(settings, index) for index in range(len(Reader) // len(readers))]
    models = devices.count(device)
    blocks = partial(block_count, settings, device, readers=len(readers), models=models)
    return LanguageModel(network, readers, blocks=blocks, store=store)


def _load_adapters(settings: Settings) -> AdapterSet:
    named = settings.adapters.items()
    return AdapterSet(
        [load_adapter(name, path) for name, path in named],
        settings.adapter_room,
        settings.max_lora_rank if settings.adapter_room else 0,
    )


def checked_network(
    model: torch.nn.Module, adapters: AdapterSet, ops: Ops, context: int
) -> Network:
    """A model's packed forward, which has shown that it computes what the model's own code does.

    Mutates: the model, which gives its weights away.

    Raises:
        ConfigError: it does not.
    """
    # Imported late: it needs transformers' modules, which take a second.
    from cold_backend.models.comparison import compare

    check = compare(model, adapters, context)
    network = network_of(model, adapters, ops, context)
    check(network)
    return network


def network_of(model: torch.nn.Module, adapters: AdapterSet, ops: Ops, context: int) -> Network:
    """The leanest forward there is for a model.

    Mutates: the model, which gives its weights away.
    """
    if is_lean(model.config, adapters, context):
        return Llama(model, adapters, ops, context)
    # Imported late: it needs transformers' modules, which take a second.
    from cold_backend.models.packed_transformer import PackedTransformer

    return PackedTransformer(
        model, attach_adapters(model, adapters, ops) if len(adapters) else None
    )


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype: torch.dtype = getattr(torch, name)
    return dtype
