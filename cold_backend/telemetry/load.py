"""How busy the engine is, and how full its memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """What has become of the blocks of keys and values, those of all pools together.

    Attributes:
        blocks: that there are; 0 before the models have said so.
        held: by what runs.
        kept: for reuse alone.
        evictions: blocks that were kept and had to make way, since the start.
        reused_tokens: tokens that contexts did not have to compute, since the start.
    """

    blocks: int = 0
    held: int = 0
    kept: int = 0
    evictions: int = 0
    reused_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the engine is.

    Attributes:
        running: sequences that run.
        waiting: sequences that wait.
        adapters: in the models.
        memory: blocks of keys and values.
    """

    running: int
    waiting: int
    adapters: int
    memory: Usage
