"""Where logits come from: what one row of a step continues."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cold_backend.adapters.served import ServedAdapter
from cold_backend.contract import BLOCK_TOKENS, Reader
from cold_backend.requests.request import GenerationRequest
from cold_kernels import Mode

# Whose logits a mode looks at.
READERS = {
    Mode.COLD: (Reader.EXPERT, Reader.BASE),
    Mode.EXPERT: (Reader.EXPERT,),
    Mode.BASE: (Reader.BASE,),
}
_KEY_BYTES = 16


@dataclass(slots=True, eq=False)
class Context:
    """A reader of a token list, and how far it has read.

    Attributes:
        reader: the language model that runs it.
        adapter: adapter index; None for the base model alone.
        strength: factor of the adapter.
        keys: what stands before the first block, then after each full one: equal keys, equal
            content of everything up to there.
        fed: tokens that its blocks hold.
        reused: of these, tokens that others had fed.
        blocks: that hold them, in order.
        copied_from: a block that it holds until its content has been copied into the last one;
            None if none.
    """

    reader: Reader
    adapter: int | None
    strength: float
    keys: list[bytes]
    fed: int = 0
    reused: int = 0
    blocks: list[int] = field(default_factory=list)
    copied_from: int | None = None

    def fork(self) -> Context:
        """Another that goes on from here, with the same blocks."""
        return replace(self, keys=[*self.keys], blocks=[*self.blocks], copied_from=None)

    def key(self, number: int, tokens: Sequence[int]) -> bytes:
        """The key of a full block, by its number among the context's blocks.

        Args:
            number: of the block.
            tokens: of the context, as far as this block at least.

        Mutates: the keys that are known.
        """
        for full in range(len(self.keys) - 1, number + 1):
            start = full * BLOCK_TOKENS
            self.keys.append(_key_after(self.keys[-1], tokens[start : start + BLOCK_TOKENS]))
        return self.keys[number + 1]

    def end_key(self, end: int, tokens: Sequence[int]) -> bytes:
        """The key of a block that is not full.

        Args:
            end: tokens up to its end.
            tokens: of the context, as far as this at least.

        Mutates: the keys that are known.
        """
        full = end // BLOCK_TOKENS
        return _key_after(self.key(full - 1, tokens), tokens[full * BLOCK_TOKENS : end])


def readers_of(request: GenerationRequest) -> tuple[Reader, ...]:
    """The readers that a request needs, for its decoding and for what it wants to be told."""
    return READERS[Mode.COLD if request.return_contrast else request.sampling.mode]


def contexts_of(
    request: GenerationRequest, adapter: ServedAdapter, index: int | None
) -> tuple[Context, ...]:
    """What a request's tokens are chosen from.

    Args:
        request: that is to be answered.
        adapter: the request's, with the version of its files.
        index: adapter index of it.
    """
    return tuple(_context(reader, request, adapter, index) for reader in readers_of(request))


def _context(
    reader: Reader, request: GenerationRequest, adapter: ServedAdapter, index: int | None
) -> Context:
    """At strength 0 an expert is the base, to the last bit."""
    strength = request.lora_scale
    has_adapter = reader is Reader.EXPERT and index is not None and strength != 0
    content = (adapter.name, adapter.path, adapter.stamp, strength) if has_adapter else None
    return Context(
        reader,
        adapter=index if has_adapter else None,
        strength=strength,
        keys=[_digest(repr((content, request.cache_salt)).encode())],
    )


def _key_after(key: bytes, tokens: Sequence[int]) -> bytes:
    return _digest(key + np.array(tokens, np.int64).tobytes())


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_KEY_BYTES).digest()
