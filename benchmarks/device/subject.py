"""Models with random weights, made where they are used, and steps of sequences all alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cold_backend.adapters.adapter import Adapter, LoraPair, features
from cold_backend.adapters.loader import changeable
from cold_backend.contract import (
    BIAS,
    BLOCK_TOKENS,
    CHOICE,
    COPY,
    COUNT,
    NONE,
    ROW,
    Int32Array,
    Int64Array,
    Reader,
    Step,
    Table,
    blocks_for,
    pack_changes,
    table,
)
from cold_backend.decoding.execution import FusedExecution
from cold_backend.loading import network_of
from cold_backend.models.attention import ATTENTION_NAME
from cold_backend.models.language_model import LanguageModel
from cold_backend.models.lora import AdapterSet
from cold_kernels import Mode, Ops

RANK = 16
BOTH = (Reader.EXPERT, Reader.BASE)
_STRENGTH = 0.15  # of an adapter's part, relative to the layer's


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model.

    Attributes:
        family: transformers' name.
        sizes: of its configuration.
        dtype: of its weights.
        sequences: that run at once.
        context: tokens of each.
    """

    family: str
    sizes: dict[str, Any]
    dtype: torch.dtype
    sequences: int
    context: int


class Subject:
    """A model with an adapter, as the fused execution runs it.

    Args:
        wanted: the model.
        device: where it is made.
        ops: the kernels.

    Attributes:
        weight_bytes: that a step reads.
        cache_bytes: of one token of one reader in the KV cache.
    """

    def __init__(self, wanted: Wanted, device: torch.device, ops: Ops) -> None:
        self.wanted = wanted
        model: Any = made_up_model(wanted.family, wanted.sizes, wanted.dtype, device)
        read = sum(weight.nbytes for weight in model.parameters())
        self.weight_bytes = read - model.model.embed_tokens.weight.nbytes
        adapters = AdapterSet([made_up_adapter(model)])
        network = network_of(model, adapters, ops, wanted.context)
        self.model = LanguageModel(
            network,
            BOTH,
            blocks=lambda _: pool_of(wanted.sequences, wanted.context),
        )
        self.execution = FusedExecution(self.model, ops)
        self.cache_bytes = self.model.bytes // (self.model.blocks * BLOCK_TOKENS)

    @property
    def vocab_size(self) -> int:
        """Of the logits."""
        return int(self.wanted.sizes["vocab_size"])

    def fill(self, sequence: int, tokens: int, chunk: int) -> None:
        """Feeds a random prompt to a sequence, for both readers. Mutates: the KV cache."""
        prompt = np.random.default_rng(sequence).integers(0, self.vocab_size, tokens)
        for start in range(0, tokens, chunk):
            part = prompt[start : start + chunk]
            spans = [(sequence, start, len(part), 0)]
            rows, blocks = fed(spans, BOTH, self.wanted.sequences, emits=False)
            self.model.forward(np.concatenate((part, part)), rows, blocks)

    def step(self, tokens: Int64Array, start: int, mode: Mode) -> Step:
        """One more token for each sequence, which have `start` ones already; all greedy."""
        readers = BOTH if mode is Mode.COLD else (Reader.EXPERT,)
        choices = np.zeros(len(tokens), CHOICE)
        choices["expert"] = np.arange(len(tokens))
        choices["base"] = len(tokens) + choices["expert"] if mode is Mode.COLD else NONE
        choices["mode"], choices["position"], choices["forced"] = mode, start, NONE
        choices["alpha"], choices["beta"] = 0.1, 0.5
        choices["top_p"] = choices["repetition_penalty"] = 1
        spans = [(sequence, start, 1, 0) for sequence in range(len(tokens))]
        rows, blocks = fed(spans, readers, self.wanted.sequences)
        return Step(
            tokens=np.concatenate([tokens] * len(readers)),
            rows=rows,
            blocks=blocks,
            choices=choices,
            biases=table(BIAS, []),
            counts=table(COUNT, []),
            copies=table(COPY, []),
            adapters=pack_changes(()),
        )


def pool_of(sequences: int, context: int) -> int:
    """Blocks that so many sequences need for both readers."""
    return len(BOTH) * sequences * blocks_for(context)


def fed(
    spans: Sequence[tuple[int, int, int, int]],
    readers: Sequence[Reader],
    sequences: int,
    *,
    emits: bool = True,
) -> tuple[Table, Int32Array]:
    """Rows of a step and their blocks, for each reader those of all spans.

    Args:
        spans: sequence, start, length, adapter index.
        readers: whose rows.
        sequences: that there are: their blocks are those of sequences that grow side by side.
        emits: whether the logits are wanted.
    """
    rows = np.zeros((len(readers), len(spans)), ROW)
    rows["adapters"], rows["strengths"], rows["emits"] = NONE, 1, emits
    rows["start"], rows["length"], rows["adapters"][:, :, 0] = np.array(spans)[:, 1:].T
    for place, reader in enumerate(readers):
        rows[place]["reader"] = reader
        if reader is Reader.BASE:
            rows[place]["adapters"] = NONE
    tables = [
        np.arange(blocks_for(start + length), dtype=np.int32) * (len(BOTH) * sequences)
        + (reader * sequences + sequence)
        for reader in readers
        for sequence, start, length, _ in spans
    ]
    return rows.reshape(-1), np.concatenate(tables)


def made_up_model(
    family: str, sizes: dict[str, Any], dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """A model with random weights, made on the device."""
    from transformers import AutoConfig, AutoModelForCausalLM

    spread = sizes["hidden_size"] ** -0.5
    config = AutoConfig.for_model(family, **sizes, initializer_range=spread)
    torch.manual_seed(0)
    with torch.device(device):
        made: Any = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=ATTENTION_NAME, trust_remote_code=False
        )
    model: nn.Module = made.requires_grad_(False).eval()
    return model


def made_up_adapter(model: nn.Module, seed: int = 1, rank: int = RANK) -> Adapter:
    """A random adapter for every linear layer but the head, on the model's device."""
    pairs = {}
    for path in sorted(changeable(model)):
        module = model.get_submodule(path)
        weight = module.weight
        if not isinstance(module, nn.Linear) or not isinstance(weight, Tensor):
            continue
        chance = torch.Generator(weight.device).manual_seed(seed)
        outputs, inputs = features(module, weight)
        a = torch.randn(rank, inputs, generator=chance, device=weight.device) / inputs**0.5
        b = torch.randn(outputs, rank, generator=chance, device=weight.device) * _STRENGTH
        pairs[path] = LoraPair(a.to(weight.dtype), b.to(weight.dtype), 1.0)
    return Adapter(f"random-{seed}", pairs, {})
