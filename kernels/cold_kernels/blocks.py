"""The blocks of keys and values where they hold one token after another, in torch's own operators.

A pool is [G, N, b, D]: of G heads, N blocks of b tokens. Rows and block numbers are those of
`layer_ops.Attend`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class BlockTable:
    """The blocks of one row.

    Attributes:
        numbers: [n] of its blocks in order, on the pool's device.
        first: the first one, if the others are the numbers after it; else None.
    """

    numbers: Tensor
    first: int | None

    def read(self, pool: Tensor, end: int) -> Tensor:
        """[G, end, D] its first `end` tokens; a view where the blocks lie one after another."""
        if self.first is None:
            return pool.index_select(1, self.numbers).flatten(1, 2)[:, :end]
        blocks = pool[:, self.first : self.first + len(self.numbers)]
        return blocks.view(len(pool), -1, pool.shape[3])[:, :end]


def tables_of(rows: Tensor, blocks: Tensor, block: int, device: torch.device) -> list[BlockTable]:
    """Of each row, for a pool with blocks of that many tokens on a device."""
    listed, moved = blocks.tolist(), blocks.to(device)
    tables = []
    for begin, start, length in rows.tolist():
        here = slice(begin, begin - (-(start + length) // block))
        first, last = listed[begin], listed[here.stop - 1]
        follows = listed[here] == [*range(first, last + 1)]
        tables.append(BlockTable(moved[here], first if follows else None))
    return tables


def positions_of(rows: Tensor) -> Tensor:
    """[T] of all rows' tokens, each within its own context."""
    return torch.cat([torch.arange(start, start + n) for _, start, n in rows.tolist()])


def places_of(rows: Tensor, blocks: Tensor, block: int) -> Tensor:
    """[T] where all rows' tokens are in a pool that is seen as [G, N * b, D]."""
    at = positions_of(rows)
    begins = rows[:, 0].repeat_interleave(rows[:, 2])
    return blocks[begins + at // block].long() * block + at % block


def write_tokens(pool: Tensor, places: Tensor, tokens: Tensor) -> None:
    """Puts tokens [G, T, D] into their places [T]. Mutates: the pool."""
    pool.view(len(pool), -1, pool.shape[3]).index_copy_(1, places, tokens)
