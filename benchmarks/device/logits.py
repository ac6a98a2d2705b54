"""The logits of small models on the device, against transformers' in float64 on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.device.bench import Bench
from benchmarks.device.subject import BOTH, Wanted, fed, made_up_adapter, made_up_model, pool_of
from cold_backend.adapters.adapter import Adapter
from cold_backend.contract import Int64Array
from cold_backend.errors import ConfigError
from cold_backend.loading import checked_network, network_of
from cold_backend.models.language_model import LanguageModel
from cold_backend.models.lora import AdapterSet

_SIZES = {
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
}
_QUICK = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
_CPU = torch.device("cpu")
_CONTEXT = 192
# Of each sequence: its adapter, and where its tokens are cut. The first is a long prompt in chunks,
# the last one of single tokens; what is fed side by side has different adapters.
_SEQUENCES = (
    (0, (0, 64, 128, 150, 151, 152, 153)),
    (1, (0, 33, 34, 35, 100, 101, 102)),
    (-1, (0, 1, 2, 3, 4, 90, 91)),
)
_RIGHT = 1e-3  # relative, in float32; another mask or adapter moves logits by about their size


def run(bench: Bench, *, quick: bool) -> dict[str, Any]:
    """Relative errors, and what the check at a server's start says in each type."""
    found = {}
    for family in ("llama", "qwen3"):
        sizes = _SIZES | (_QUICK if quick else {})
        found[family] = _of(bench, family, sizes)
        print(family, found[family], flush=True)
    return found


def _of(bench: Bench, family: str, sizes: dict[str, Any]) -> dict[str, Any]:
    model = made_up_model(family, sizes, torch.float32, bench.device)
    adapters = [made_up_adapter(model, seed) for seed in (1, 2)]
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, sizes["vocab_size"], cuts[-1]) for _, cuts in _SEQUENCES]
    exact = _transformers(Wanted(family, sizes, torch.float64, 0, 0), model, adapters, texts)
    network = network_of(model, AdapterSet(adapters), bench.ops, _CONTEXT)
    ours = LanguageModel(network, BOTH, blocks=lambda _: pool_of(len(_SEQUENCES), _CONTEXT))
    errors: dict[str, list[float]] = {"expert": [], "base": []}
    for number in range(len(_SEQUENCES[0][1]) - 1):
        spans = [(cuts[number], cuts[number + 1]) for _, cuts in _SEQUENCES]
        rows, blocks = fed(
            [
                (sequence, start, end - start, _SEQUENCES[sequence][0])
                for sequence, (start, end) in enumerate(spans)
            ],
            BOTH,
            len(_SEQUENCES),
        )
        tokens = np.concatenate([text[slice(*s)] for text, s in zip(texts, spans, strict=True)])
        found = ours.forward(np.concatenate((tokens, tokens)), rows, blocks).chunk(2)
        for name, logits, wanted in zip(errors, found, exact, strict=True):
            for of_row, text, (_, end) in zip(logits, wanted, spans, strict=True):
                errors[name].append(_error(of_row, text[end - 1]))
    worst = {name: max(values) for name, values in errors.items()}
    return {
        "relative_error": worst,
        "right": all(value < _RIGHT for value in worst.values()),
        "start_check": {
            str(dtype)[6:]: _start_check(bench, family, sizes, dtype)
            for dtype in (torch.float32, torch.bfloat16, torch.float16)
        },
    }


def _transformers(
    wanted: Wanted, model: nn.Module, adapters: list[Adapter], texts: list[Int64Array]
) -> tuple[list[Tensor], list[Tensor]]:
    """Of each text [n, V], with its adapter merged into the weights, and without."""
    state = {name: tensor.double().cpu() for name, tensor in model.state_dict().items()}

    def logits(text: Int64Array, adapter: int) -> Tensor:
        own: Any = made_up_model(wanted.family, wanted.sizes, wanted.dtype, _CPU)
        own.set_attn_implementation("eager")
        own.load_state_dict(state)
        for path, pair in adapters[adapter].pairs.items() if adapter >= 0 else ():
            delta = pair.b.double().cpu() @ pair.a.double().cpu()
            own.get_submodule(path).weight += pair.scale * delta
        found: Tensor = own(torch.from_numpy(text)[None], use_cache=False).logits[0]
        return found

    with torch.inference_mode():
        experts = [logits(t, a) for t, (a, _) in zip(texts, _SEQUENCES, strict=True)]
        bases = [logits(text, -1) for text in texts]
    return experts, bases


def _error(found: Tensor, wanted: Tensor) -> float:
    """Of NaN, infinite."""
    difference = found.double().cpu() - wanted
    return float((difference.norm() / wanted.norm()).nan_to_num(torch.inf))


def _start_check(bench: Bench, family: str, sizes: dict[str, Any], dtype: torch.dtype) -> str:
    model = made_up_model(family, sizes, dtype, bench.device)
    adapters = AdapterSet([made_up_adapter(model)])
    try:
        checked_network(model, adapters, bench.ops, _CONTEXT)
    except ConfigError as error:
        return str(error)
    return "passed"
