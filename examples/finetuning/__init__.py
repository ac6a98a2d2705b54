"""LoRA training on prompts with answers: model, loop, checkpoints, progress."""
