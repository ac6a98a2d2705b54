"""The rows of one forward, as tensors on the model's device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cold_backend.contract import Int32Array, Int64Array, Row, emitting


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
    def of(cls, tokens: Int64Array, rows: Int32Array, device: torch.device) -> Batch:
        """From a step's tokens [T] and rows [R, len(Row)]."""

        def tensor(array: npt.NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        lengths = rows[:, Row.LENGTH]
        ends = np.cumsum(lengths, dtype=np.int64)
        # Token t of all is at position t - (tokens before its row) + (tokens in its slot).
        shifts = rows[:, Row.START] - (ends - lengths)
        spans = np.ascontiguousarray(rows[:, [Row.SLOT, Row.START, Row.LENGTH]])
        return cls(
            tokens=tensor(tokens),
            positions=tensor(np.arange(len(tokens)) + np.repeat(shifts, lengths)),
            adapters=tensor(np.repeat(rows[:, Row.ADAPTER], lengths)),
            last=tensor(ends[emitting(rows)] - 1),
            spans=torch.from_numpy(spans),
        )
