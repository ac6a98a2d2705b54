"""OpenAI's HTTP API over a CoLD server: docs/openai.md. Needs the extra `openai`."""

from .app import create_app

__all__ = ["create_app"]
