"""Tiny random models of the supported families, and adapters for them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import transformers

VOCAB = 151
_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "head_dim": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 12},
    "gemma": {},
    "gemma2": {"sliding_window": 12, "query_pre_attn_scalar": 8},
    "gemma3_text": {"sliding_window": 12, "query_pre_attn_scalar": 8},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "phi3": {},
    "gpt_neox": {},
    # Masks by chunks; attention read by `view`; sinks; several attentions in a layer, at one index
    # or at several; keys wider than values; attention that hands no keywords on.
    "llama4_text": {
        "attention_chunk_size": 12,
        "no_rope_layers": [1, 0],
        "intermediate_size_mlp": 48,
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
    },
    "afmoe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "gpt_oss": {"sliding_window": 12, "num_local_experts": 4, "num_experts_per_tok": 2},
    "diffllama": {},
    "hrm_text": {},
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "head_dim": 8,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 32,
    },
    "nemotron": {},
    "granite": {},
    "cohere": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}
_ATTENTION = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
LORA_OPTIONS: dict[str, dict[str, Any]] = {
    # With experts among its layers, PEFT changes parameters that are no layers.
    "llama4_text": _ATTENTION,
    "afmoe": _ATTENTION,
    "mixtral": _ATTENTION,
    "gpt_oss": _ATTENTION,
    "deepseek_v3": {"target_modules": ["q_a_proj", "q_b_proj", "kv_b_proj", "o_proj"]},
    "gpt2": {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
}


def make_model(
    family: str, path: Path, seed: int = 0, *, deviation: float = 0.25, **options: Any
) -> Path:
    """Writes a random model whose logits are far enough apart for tokens to be compared."""
    torch.manual_seed(seed)
    sizes = _SIZES | FAMILIES[family] | options
    config = transformers.AutoConfig.for_model(family, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                weight.normal_(0, deviation)
    model.save_pretrained(path)
    return path


def add_tokenizer(path: Path, base_model: Path) -> Path:
    """Gives a small model the real one's tokenizer and chat template."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (base_model / name).exists():
            shutil.copy(base_model / name, path)
    return path


def make_adapter(base: Path, path: Path, *, seed: int = 1, **options: Any) -> Path:
    """Writes a random adapter with B != 0."""
    from peft import LoraConfig, get_peft_model  # seconds, which only those wait for who need it

    torch.manual_seed(seed)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(base, trust_remote_code=False)
    family = model.config.model_type
    options = {"target_modules": "all-linear", "r": 4} | LORA_OPTIONS.get(family, {}) | options
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.2)
    tuned.save_pretrained(path)
    return path
