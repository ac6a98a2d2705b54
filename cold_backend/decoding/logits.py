"""The logits that the choices of a step look at, and the settings that the ops take with them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cold_backend.contract import Int64Array, Step, Table

NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Logits:
    """What the choices read, E of them. A row that a choice does not read may hold anything.

    Attributes:
        expert: [E, V].
        base: [E, V].
        mode: [E] int32, `cold_kernels.Mode`.
        alpha: [E] float32.
        beta: [E] float32.
    """

    expert: Tensor
    base: Tensor
    mode: Tensor
    alpha: Tensor
    beta: Tensor

    @classmethod
    def of(cls, step: Step, logits: Tensor) -> Logits:
        """From the logits [E', V] of the step's emitting rows, in row order."""
        place = np.cumsum(step.rows["emits"]) - 1  # of each row among the emitting ones
        return cls(
            expert=_take(logits, place, step.choices["expert"]),
            base=_take(logits, place, step.choices["base"]),
            mode=column(step.choices, "mode", logits.device),
            alpha=column(step.choices, "alpha", logits.device),
            beta=column(step.choices, "beta", logits.device),
        )

    def take(self, choices: Int64Array) -> Logits:
        """Those of some choices."""
        parts = (self.expert, self.base, self.mode, self.alpha, self.beta)
        return Logits(*(take_rows(part, choices) for part in parts))

    def biased(self, biases: Table) -> Logits:
        """With `Step.biases` added, in the type that the logits have."""
        if not len(biases):
            return self
        device = self.expert.device
        places = column(biases, "choice", device).long(), column(biases, "token", device)
        added = column(biases, "bias", device).to(self.expert.dtype)
        return replace(
            self,
            expert=self.expert.index_put(places, added, accumulate=True),
            base=self.base.index_put(places, added, accumulate=True),
        )


def column(rows: Table, name: str, device: torch.device) -> Tensor:
    """A column [n] of a table, on a device."""
    return torch.from_numpy(rows[name].copy()).to(device)


def take_rows(tensor: Tensor, rows: Int64Array) -> Tensor:
    """Some rows of a tensor; no copy where they follow one another."""
    first = int(rows[0]) if len(rows) else 0
    if (rows == np.arange(first, first + len(rows))).all():
        return tensor[first : first + len(rows)]
    return tensor[torch.from_numpy(rows).to(tensor.device)]


def _take(logits: Tensor, place: Int64Array, rows: npt.NDArray[np.int32]) -> Tensor:
    """[E, V] of the given rows; of no row, whatever there is."""
    if (rows < 0).all() and len(rows) <= len(logits):
        return logits[: len(rows)]
    return take_rows(logits, np.where(rows < 0, 0, place[rows]))
