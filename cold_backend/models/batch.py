"""The rows of one forward, as tensors on the model's device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cold_backend.contract import BLOCK_TOKENS, NONE, Int32Array, Int64Array, Table


@dataclass(frozen=True, slots=True)
class TokenAdapters:
    """The adapters of each token, A at most, as the ops take them.

    Attributes:
        index: [A, T] int32 indices in the model, -1 for none.
        strength: [A, T] float32 factor of what each adds.
    """

    index: Tensor
    strength: Tensor

    def __len__(self) -> int:
        return self.index.shape[1]

    def take(self, tokens: Tensor) -> TokenAdapters:
        """Those of some tokens, by their places [E]."""
        return TokenAdapters(self.index[:, tokens], self.strength[:, tokens])


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokens of all rows, packed one row after another without padding.

    Attributes:
        tokens: [T] int64 token ids.
        positions: [T] int64 position of each token in its sequence.
        adapters: of the T tokens.
        last: [E] int64, where the last token of each row is whose logits are wanted.
        spans: [R, 3] int32, in the CPU's memory: where the row's blocks begin, tokens that they
            hold already, tokens of the row.
        blocks: [B] int32, in the CPU's memory: the blocks of each row, row after row.
    """

    tokens: Tensor
    positions: Tensor
    adapters: TokenAdapters
    last: Tensor
    spans: Tensor
    blocks: Tensor

    @classmethod
    def of(cls, tokens: Int64Array, rows: Table, blocks: Int32Array, device: torch.device) -> Batch:
        """From a step's tokens [T], rows [R] of ROW and blocks [B]."""

        def tensor(array: npt.NDArray[Any]) -> Tensor:
            return torch.from_numpy(array).to(device)

        lengths = rows["length"]
        ends = np.cumsum(lengths, dtype=np.int64)
        # Token t of all is at position t - (tokens before its row) + (tokens in its blocks).
        shifts = rows["start"] - (ends - lengths)
        counts = block_counts(rows)
        begins = np.cumsum(counts, dtype=np.int32) - counts
        spans = np.stack((begins, rows["start"], lengths), axis=1)
        # Most steps have no row with several adapters, and then there is one column of them.
        several = max(1, int((rows["adapters"] != NONE).sum(axis=1).max(initial=0)))
        return cls(
            tokens=tensor(tokens),
            positions=tensor(np.arange(len(tokens)) + np.repeat(shifts, lengths)),
            adapters=TokenAdapters(
                index=tensor(np.repeat(rows["adapters"].T[:several], lengths, axis=1)),
                strength=tensor(np.repeat(rows["strengths"].T[:several], lengths, axis=1)),
            ),
            last=tensor(ends[rows["emits"] != 0] - 1),
            spans=torch.from_numpy(spans),
            blocks=torch.from_numpy(blocks),
        )


def block_counts(rows: Table) -> Int32Array:
    """[R] how many blocks each of the rows [R] of ROW has."""
    counts: Int32Array = -(-(rows["start"] + rows["length"]) // BLOCK_TOKENS)
    return counts
