"""The rows of one forward, as tensors on the model's device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cold_backend.contract import Int64Array, Table


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokens of all rows, packed one row after another without padding.

    Attributes:
        tokens: [T] int64 token ids.
        positions: [T] int64 position of each token in its sequence.
        adapters: [T] int32 adapter index of each token, -1 for none.
        last: [E] int64, where the last token of each row is whose logits are wanted.
        spans: [R, 3] int32, in the CPU's memory: KV-cache slot, tokens that it holds already,
            tokens of the row.
    """

    tokens: Tensor
    positions: Tensor
    adapters: Tensor
    last: Tensor
    spans: Tensor

    @classmethod
    def of(cls, tokens: Int64Array, rows: Table, device: torch.device) -> Batch:
        """From a step's tokens [T] and rows [R] of ROW."""

        def tensor(array: npt.NDArray[Any]) -> Tensor:
            return torch.from_numpy(array).to(device)

        lengths = rows["length"]
        ends = np.cumsum(lengths, dtype=np.int64)
        # Token t of all is at position t - (tokens before its row) + (tokens in its slot).
        shifts = rows["start"] - (ends - lengths)
        spans = np.stack((rows["slot"], rows["start"], lengths), axis=1)
        return cls(
            tokens=tensor(tokens),
            positions=tensor(np.arange(len(tokens)) + np.repeat(shifts, lengths)),
            adapters=tensor(np.repeat(rows["adapter"], lengths)),
            last=tensor(ends[rows["emits"] != 0] - 1),
            spans=torch.from_numpy(spans),
        )
