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
        temperature: [E] float32.
    """

    expert: Tensor
    base: Tensor
    mode: Tensor
    alpha: Tensor
    beta: Tensor
    temperature: Tensor

    @classmethod
    def of(cls, step: Step, logits: Tensor) -> Logits:
        """From the logits [E', V] of the step's emitting rows, in row order."""
        place = np.cumsum(step.rows["emits"]) - 1  # of each row among the emitting ones

        def setting(name: str) -> Tensor:
            return torch.from_numpy(step.choices[name].copy()).to(logits.device)

        return cls(
            expert=_take(logits, place, step.choices["expert"]),
            base=_take(logits, place, step.choices["base"]),
            mode=setting("mode"),
            alpha=setting("alpha"),
            beta=setting("beta"),
            temperature=setting("temperature"),
        )

    def take(self, choices: Int64Array) -> Logits:
        """Those of some choices."""
        picked = torch.from_numpy(choices).to(self.expert.device)
        return Logits(
            self.expert[picked],
            self.base[picked],
            self.mode[picked],
            self.alpha[picked],
            self.beta[picked],
            self.temperature[picked],
        )

    def without(self, bans: Table) -> Logits:
        """With the banned tokens of `Step.bans` at -inf."""
        if not len(bans):
            return self
        places = tuple(
            torch.from_numpy(bans[name].astype(np.int64)).to(self.expert.device)
            for name in ("choice", "token")
        )
        never = self.expert.new_tensor(NEVER)
        return replace(
            self,
            expert=self.expert.index_put(places, never),
            base=self.base.index_put(places, never),
        )


def log_probs_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities [n, k] of tokens [n, k] under logits [n, V]."""
    logits = logits.float()
    return logits.gather(1, tokens) - logits.logsumexp(dim=1, keepdim=True)


def _take(logits: Tensor, place: npt.NDArray[np.int64], rows: npt.NDArray[np.int32]) -> Tensor:
    """[E, V] of the given rows; of no row, whatever there is."""
    at = np.where(rows < 0, 0, place[rows])
    first = int(at[0]) if len(at) else 0
    if (at == np.arange(first, first + len(at))).all():
        return logits[first : first + len(at)]
    return logits[torch.from_numpy(at).to(logits.device)]
