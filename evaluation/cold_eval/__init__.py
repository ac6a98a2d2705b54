"""Evaluates and tunes contrastive LoRA decoding on tasks with known answers."""

__version__ = "0.1.0"
