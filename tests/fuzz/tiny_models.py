"""Small random models of every family of causal language models that transformers has."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCAB = 151
CONTEXT = 128
_LARGEST = 20_000_000  # parameters
# By the end of an option's name; the first that matches counts.
_SIZES: tuple[tuple[str, int], ...] = (
    (r"(^|_)vocab_size(_per_layer_input)?$", VOCAB),
    (r"(moe_|shared_|expert_|ffn_|mlp_)\w*(intermediate|hidden)_?(size|dim)\w*$", 32),
    (r"(^|_)(intermediate|ffn_hidden)_size\w*$|^(n_inner|ffn_dim|block_ff_dim)$", 48),
    (r"^(hidden_size|n_embd|d_model|embed_dim|embedding_size|word_embed_proj_dim)$", 32),
    (r"^(num_hidden_layers|n_layers?|num_layers|decoder_layers|encoder_layers)$", 2),
    (
        r"^(num_attention_heads|n_heads?|num_heads|decoder_attention_heads|encoder_attention_heads)$",
        4,
    ),
    (r"^(num_key_value_heads|num_kv_heads|swa_num_key_value_heads)$", 2),
    (r"^(max_position_embeddings|n_positions|n_ctx|max_seq_len)$", CONTEXT),
    (r"^(head_dim|qk_nope_head_dim|v_head_dim|swa_head_dim|global_head_dim|d_kv|kv_channels)$", 16),
    (r"^qk_rope_head_dim$", 8),
    (r"_lora_rank$", 16),
    (r"^(num_experts|num_local_experts|n_routed_experts|moe_num_experts)$", 4),
    (r"^(num_experts_per_tok|moe_k|moe_topk|num_experts_per_token|top_k_experts)$", 2),
    (r"^(n_group|topk_group|num_expert_group)$", 1),
    (r"^(sliding_window|local_attn_windows?|attention_chunk_size)$", 12),
    (r"^(mamba_n_heads|mamba_num_heads|linear_num_value_heads|linear_num_key_heads)$", 4),
    (r"^(mamba_d_state|ssm_state_size|state_size|mamba_d_head|mamba_head_dim)$", 16),
    (r"^linear_(value|key)_head_dim$", 8),
    (r"^(bos_token_id)$", 1),
    (r"^(eos_token_id|pad_token_id|decoder_start_token_id)$", 2),
)
_SPECIAL: dict[str, dict[str, Any]] = {
    "gemma2": {"query_pre_attn_scalar": 8},
    "gemma3_text": {"query_pre_attn_scalar": 8},
    "llama4_text": {
        "no_rope_layers": [1, 0],
        "intermediate_size_mlp": 48,
        "num_experts_per_tok": 1,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "codegen": {"rotary_dim": 8},
    "gptj": {"rotary_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 12},
    "helium": {"head_dim": 8},
    "mamba2": {"head_dim": 16, "n_groups": 1, "num_heads": 4},
    "dots1": {"n_shared_experts": 1, "first_k_dense_replace": 1},
    "zaya": {"num_experts_per_tok": 1},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "reformer": {"is_decoder": True},
    "bert": {"is_decoder": True},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "longcat_flash": {"num_layers": 1, "head_dim": 8},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 2},
    "bamba": {"attn_layer_indices": [1]},
}


class NotBuiltError(Exception):
    """transformers does not make a small model of the family from this configuration."""


def families() -> list[str]:
    """The names of all, sorted."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def make_tiny(
    family: str, path: Path, seed: int, options: dict[str, Any] | None = None
) -> transformers.PreTrainedModel:
    """Writes a random model whose logits are far enough apart for tokens to be compared.

    Args:
        options: of the configuration, beside the small sizes.

    Raises:
        NotBuiltError: transformers itself cannot make or run one.
    """
    torch.manual_seed(seed)
    try:
        config = tiny_config(family, options or {})
        with torch.device("meta"):
            large = transformers.AutoModelForCausalLM.from_config(config)
        if sum(weight.numel() for weight in large.parameters()) > _LARGEST:
            raise NotBuiltError(f"{family}: too large")
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        _randomise(model)
        with torch.inference_mode():
            logits = model(torch.arange(3, 20)[None], use_cache=False).logits
        if not logits.isfinite().all():
            raise NotBuiltError(f"{family}: logits are not finite")
        model.save_pretrained(path)
        # Read again: of a model with more than text, only that part is kept.
        return transformers.AutoModelForCausalLM.from_pretrained(path, trust_remote_code=False)
    except NotBuiltError:
        raise
    except Exception as error:  # whatever its code does with small sizes
        raise NotBuiltError(f"{family}: {type(error).__name__}: {error}") from error


def tiny_config(family: str, options: dict[str, Any]) -> Any:
    """The family's configuration with small sizes."""
    default = transformers.AutoConfig.for_model(family)
    names = [*default.get_text_config().to_dict(), *getattr(default, "attribute_map", {})]
    sizes = {name: size for name in names if (size := _size(name)) is not None}
    if "qk_rope_head_dim" in sizes:  # there the width of a head follows from its parts
        sizes.pop("head_dim", None)
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    if default.get_text_config() is not default:
        key = next(k for k, v in vars(default).items() if v is default.get_text_config())
        return transformers.AutoConfig.for_model(family, **{key: sizes | options})
    chosen = sizes | _SPECIAL.get(family, {}) | options
    return transformers.AutoConfig.for_model(family, **chosen)


def random_options(chance: random.Random) -> dict[str, Any]:
    """Options that most families know; those that do not keep them unread."""
    heads = chance.choice([2, 4])
    rope = chance.choice(
        [
            {"rope_type": "default"},
            {"rope_type": "linear", "factor": 2.0},
            {"type": "linear", "factor": 3.0},
            {"rope_type": "dynamic", "factor": 2.0},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        ]
    )
    options = {
        "num_attention_heads": heads,
        "num_key_value_heads": chance.choice([1, heads]),
        "head_dim": chance.choice([8, 16, 24]),
        "sliding_window": chance.choice([1, 5, 12, 40]),
        "attention_chunk_size": chance.choice([4, 16]),
        "hidden_act": chance.choice(["silu", "gelu", "relu"]),
        "tie_word_embeddings": chance.choice([True, False]),
        "attention_bias": chance.choice([True, False]),
        "rope_scaling": rope,
        "num_hidden_layers": chance.choice([2, 3, 4]),
    }
    return dict(chance.sample(sorted(options.items()), chance.randint(0, 4)))


def _size(name: str) -> int | None:
    return next((size for pattern, size in _SIZES if re.search(pattern, name)), None)


def _randomise(model: nn.Module) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2 and "A_log" not in name:
                weight.normal_(0, 0.25)
