"""A random adapter on all linear layers: speed depends on its sizes, not on what it learnt."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

RANK = 16
_SIZE = 0.05  # of each layer's change, relative to its weight's Frobenius norm


def make_adapter(
    base_model: Path, adapter: Path, merged: Path | None = None, *, rank: int = RANK
) -> None:
    """Writes the adapter, and if asked the base model with it merged, in bfloat16.

    Nothing if the last of them exists.
    """
    last = merged / "config.json" if merged else adapter / "adapter_config.json"
    if last.is_file():
        return
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(
        base_model, dtype=torch.float32, trust_remote_code=False
    )
    options = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, options)
    with torch.no_grad():
        for layer in model.modules():
            if hasattr(layer, "lora_A"):
                a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
                a.normal_(0, a.shape[1] ** -0.5)
                b.normal_()
                change = (b @ a) * layer.scaling["default"]
                b *= _SIZE * layer.base_layer.weight.norm() / change.norm()
    model.save_pretrained(adapter)
    if merged is None:
        return
    model.merge_and_unload().to(torch.bfloat16).save_pretrained(merged)
    AutoTokenizer.from_pretrained(base_model, trust_remote_code=False).save_pretrained(merged)
