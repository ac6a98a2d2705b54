"""Where logits come from: what one row of a step continues."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from cold_backend.adapters.served import ServedAdapter
from cold_backend.contract import BLOCK_TOKENS, Reader
from cold_backend.requests.mixture import Mixture
from cold_backend.requests.request import GenerationRequest
from cold_kernels import Mode

_KEY_BYTES = 16


class Role(enum.Enum):
    """What a context's logits are to a choice; the value is the choice's column."""

    EXPERT = "expert"
    AMATEUR = "base"


class Source(NamedTuple):
    """Where a request's logits come from, before there is a context of it.

    Attributes:
        role: what they are to the choice.
        reader: the language model that runs it.
        prompt: token ids.
        adapters: that it is read with, none of them at strength 0; none is the base, to the bit.
    """

    role: Role
    reader: Reader
    prompt: tuple[int, ...]
    adapters: Mixture


def sources_of(request: GenerationRequest) -> tuple[Source, ...]:
    """What a request's tokens are chosen from, and what it wants to be told of."""
    mode = Mode.COLD if request.return_contrast else request.sampling.mode
    if mode is Mode.BASE:
        return (_amateur_of(request),)
    expert = Source(Role.EXPERT, Reader.EXPERT, request.prompt, _felt(request.adapters))
    return (expert, _amateur_of(request)) if mode is Mode.COLD else (expert,)


def _amateur_of(request: GenerationRequest) -> Source:
    own = request.amateur
    if own and own.adapters:
        return Source(Role.AMATEUR, Reader.EXPERT, own.prompt, _felt(own.adapters))
    return Source(Role.AMATEUR, Reader.BASE, own.prompt if own else request.prompt, ())


def _felt(adapters: Mixture) -> Mixture:
    return tuple((name, strength) for name, strength in adapters if strength)


@dataclass(slots=True, eq=False)
class Context:
    """A reader of a token list, and how far it has read.

    Attributes:
        role: what its logits are to the choice.
        reader: the language model that runs it.
        prompt: token ids; what it reads is these, then the output.
        adapters: adapter indices and the factors of each; none for the base model alone.
        keys: what stands before the first block, then after each full one: equal keys, equal
            content of everything up to there.
        fed: tokens that its blocks hold.
        reused: of these, tokens that others had fed.
        blocks: that hold them, in order.
        copied_from: a block that it holds until its content has been copied into the last one;
            None if none.
    """

    role: Role
    reader: Reader
    prompt: tuple[int, ...]
    adapters: tuple[tuple[int, float], ...]
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


def contexts_of(
    request: GenerationRequest, adapters: Mapping[ServedAdapter, int]
) -> tuple[Context, ...]:
    """The contexts of a request's sources.

    Args:
        request: that is to be answered.
        adapters: those it needs, with the version of their files and their adapter index.
    """
    served = {adapter.name: (adapter, index) for adapter, index in adapters.items()}
    return tuple(_context(source, served, request.cache_salt) for source in sources_of(request))


def _context(source: Source, served: dict[str, tuple[ServedAdapter, int]], salt: str) -> Context:
    used = [(*served[name], strength) for name, strength in source.adapters]
    content = [(one.name, one.path, one.stamp, strength) for one, _, strength in used]
    return Context(
        source.role,
        source.reader,
        source.prompt,
        adapters=tuple((index, strength) for _, index, strength in used),
        keys=[_digest(repr((content, salt)).encode())],
    )


def _key_after(key: bytes, tokens: Sequence[int]) -> bytes:
    return _digest(key + np.array(tokens, np.int64).tobytes())


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_KEY_BYTES).digest()
