"""Language models: a step's tokens in, logits out; their layers, KV cache and LoRA.

Knows no requests and chooses no tokens.
"""
