"""LoRA adapters as files, in memory and by name: found, checked, read, and kept.

Knows neither models that they are put into nor requests; alone touches adapters' files.
"""
