"""A lean forward for the decoders that most models are: those built like Llama.

The same arithmetic as transformers' modules, in a few ops per layer: neighbouring projections and
their adapters are one product, and nothing is copied, padded or looked up by name on the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cold_backend.adapters.adapter import Adapter
from cold_backend.models.batch import Batch
from cold_backend.models.kv_cache import KVCache
from cold_backend.models.lora import AdapterSet
from cold_backend.models.projection import Projection
from cold_kernels import Ops

_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_OUT = ("self_attn.o_proj",)
_GATE_UP = ("mlp.gate_proj", "mlp.up_proj")
_DOWN = ("mlp.down_proj",)
_HEAD = "lm_head"


@dataclass(frozen=True, slots=True)
class _Layer:
    input_norm: Tensor  # [H]
    qkv: Projection
    query_norm: Tensor | None  # [D], Qwen 3
    key_norm: Tensor | None  # [D]
    out: Projection
    middle_norm: Tensor  # [H]
    gate_up: Projection
    down: Projection


def is_lean(config: Any, adapters: AdapterSet, context: int) -> bool:
    """Whether `Llama` can run a model with these adapters."""
    window = getattr(config, "sliding_window", None)
    return (
        getattr(config, "model_type", None) in _FAMILIES
        and config.hidden_act == "silu"
        and (window is None or window >= context)
        # What kernels want of every matrix.
        and _head_width(config) % 16 == config.intermediate_size % 16 == 0
        and all(map(_is_projection, adapters.paths))
    )


class Llama:
    """A Llama-like model over packed rows. See `Network`.

    Args:
        model: from `load_model`; its weights are moved out of it, layer by layer.
        adapters: of the model.
        ops: the kernels.
        context: tokens of a sequence.
    """

    def __init__(self, model: Any, adapters: AdapterSet, ops: Ops, context: int) -> None:
        config = model.config
        self._ops = ops
        self._epsilon: float = config.rms_norm_eps
        self._head_width = _head_width(config)
        self._kv_heads: int = config.num_key_value_heads
        self._cosine, self._sine = _angles(model, context)  # [C, D / 2]
        self._norm: Tensor = model.model.norm.weight
        self._embeddings: Tensor | None = (
            None if _is_tied(model) else model.model.embed_tokens.weight
        )
        self.device = self._norm.device
        self.vocab_size = int(model.lm_head.weight.shape[0])
        self._layers = [
            self._take_layer(model.model.layers, number, adapters)
            for number in range(len(model.model.layers))
        ]
        self._head = Projection.of([model.lm_head], [_HEAD], adapters, ops, is_head=True)
        model.model.embed_tokens = model.lm_head = None

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """See `Network`."""
        ops, adapters = self._ops, batch.adapters
        hidden, delta = self._embed(batch.tokens), None  # [T, H]
        for number, layer in enumerate(self._layers):
            x = ops.add_rms_norm(hidden, delta, layer.input_norm, self._epsilon)
            attended = self._attend(number, layer, layer.qkv(x, adapters), batch, cache)
            if layer is self._layers[-1] and len(batch.last) < len(adapters):
                # Nothing looks at the other tokens any more.
                hidden, attended = hidden[batch.last], attended[batch.last]
                adapters = adapters.take(batch.last)
            delta = layer.out(attended, adapters)
            x = ops.add_rms_norm(hidden, delta, layer.middle_norm, self._epsilon)
            delta = layer.down(ops.silu_multiply(layer.gate_up(x, adapters)), adapters)
        x = ops.add_rms_norm(hidden, delta, self._norm, self._epsilon)
        return self._head(x, adapters)

    def put_adapter(self, index: int, adapter: Adapter) -> Iterator[None]:
        """See `Network`."""
        for layer in self._layers:
            for projection in (layer.qkv, layer.out, layer.gate_up, layer.down):
                yield from projection.put_adapter(index, adapter)

    def _embed(self, tokens: Tensor) -> Tensor:
        if self._embeddings is None:
            return self._ops.packing.take_rows(self._head.weight, tokens)
        return self._embeddings[tokens]

    def _attend(
        self, number: int, layer: _Layer, qkv: Tensor, batch: Batch, cache: KVCache
    ) -> Tensor:
        """[T, (Q + 2 * G) * D] -> [T, Q * D]"""
        if layer.query_norm is not None and layer.key_norm is not None:
            queries, keys, _ = qkv.split(layer.qkv.widths, dim=1)
            self._norm_heads(queries, layer.query_norm)
            self._norm_heads(keys, layer.key_norm)
        width = self._head_width
        pools = cache.layer(number, self._kv_heads, width, width, like=qkv)
        where = batch.spans, batch.blocks
        return self._ops.attend(qkv, self._cosine, self._sine, *pools, *where, width**-0.5)

    def _norm_heads(self, heads: Tensor, weight: Tensor) -> None:
        flat = heads.reshape(-1, self._head_width)
        heads.copy_(self._ops.add_rms_norm(flat, None, weight, self._epsilon).view(heads.shape))

    def _take_layer(self, layers: nn.ModuleList, number: int, adapters: AdapterSet) -> _Layer:
        """Moves a layer's weights; what held them is freed, so that they exist once."""
        layer: Any = layers[number]

        def take(names: tuple[str, ...]) -> Projection:
            modules = [layer.get_submodule(name) for name in names]
            paths = [f"model.layers.{number}.{name}" for name in names]
            return Projection.of(modules, paths, adapters, self._ops)

        attention = layer.self_attn
        taken = _Layer(
            input_norm=layer.input_layernorm.weight,
            qkv=take(_QKV),
            query_norm=attention.q_norm.weight if hasattr(attention, "q_norm") else None,
            key_norm=attention.k_norm.weight if hasattr(attention, "k_norm") else None,
            out=take(_OUT),
            middle_norm=layer.post_attention_layernorm.weight,
            gate_up=take(_GATE_UP),
            down=take(_DOWN),
        )
        layers[number] = nn.Identity()
        return taken


def _is_projection(path: str) -> bool:
    return path == _HEAD or path.endswith((*_QKV, *_OUT, *_GATE_UP, *_DOWN))


def _is_tied(model: Any) -> bool:
    return model.lm_head.weight is model.model.embed_tokens.weight


def _head_width(config: Any) -> int:
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(width)


def _angles(model: Any, context: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [C, D / 2] of the rotary embedding, scaled as the model scales them."""
    like = torch.empty(0, dtype=torch.float32, device=model.model.norm.weight.device)
    positions = torch.arange(context, device=like.device)[None]
    tables = model.model.rotary_emb(like, positions)  # [1, C, D], both halves alike
    cosine, sine = (table[0, :, : table.shape[2] // 2].float().contiguous() for table in tables)
    return cosine, sine
