"""The CoLD server: requests, scheduling, decoding, language models, adapters."""

__version__ = "0.1.0"
