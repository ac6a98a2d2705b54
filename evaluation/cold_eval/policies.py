"""How a token is chosen, for decodings that look at expert and base logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from cold_backend.contract import Float32Array, Int64Array
from cold_eval.decodings import Decoding
from cold_eval.errors import EvaluationError


@dataclass(frozen=True, slots=True)
class View:
    """What one step shows of one sequence.

    Attributes:
        ids: [n] tokens that the smallest alpha in use leaves valid, ascending.
        expert: [n] their logits.
        base: [n] likewise.
        expert_norm: logsumexp of all the expert's logits.
        base_norm: likewise.
        expert_row: [V] all logits, on the model's device; to be read during the step only.
        base_row: [V] likewise.
        divergence: how far expert and base are apart, see `cold_kernels.choice_ops`; 0 if no
            policy asks.
    """

    ids: Int64Array
    expert: Float32Array
    base: Float32Array
    expert_norm: float
    base_norm: float
    expert_row: Tensor
    base_row: Tensor
    divergence: float = 0.0

    @property
    def best(self) -> int:
        """Place in `ids` of the expert's own best."""
        return int(self.expert.argmax())

    @property
    def gap(self) -> float:
        """By how much the expert prefers its best to its second; infinite if no other is valid.

        A step is contested for an alpha if the gap is at most -log(alpha).
        """
        if len(self.ids) < 2:
            return math.inf
        second, first = np.partition(self.expert, -2)[-2:]
        return float(first - second)


class Policy(Protocol):
    """Chooses tokens. `name` is the decoding's, `alpha` bounds what may be chosen."""

    @property
    def name(self) -> str: ...

    @property
    def alpha(self) -> float: ...

    def choose(self, view: View, output: Sequence[int]) -> int:
        """Place in `view.ids` of the next token, whose expert probability must be at least alpha
        times the highest.

        Args:
            output: tokens generated so far.
        """
        ...


@dataclass(frozen=True, slots=True)
class Greedy:
    """The expert's best."""

    name: str = "greedy"
    alpha: float = 1.0

    def choose(self, view: View, output: Sequence[int]) -> int:
        """See `Policy`."""
        return view.best


@dataclass(frozen=True, slots=True)
class Contrast:
    """CoLD; bit for bit what the op `contrast_select` computes."""

    name: str
    alpha: float
    beta: float
    by_divergence: bool = False

    def choose(self, view: View, output: Sequence[int]) -> int:
        """See `Policy`."""
        return int(self.scores(view).argmax())  # of equals the first

    def scores(self, view: View) -> Float32Array:
        """[n] of the view's tokens, -inf outside the valid set."""
        e, a, beta = view.expert, view.base, np.float32(self.beta)
        if self.by_divergence:
            beta *= np.float32(view.divergence)
        scores = e + beta * (e - a) if beta else e
        threshold = e.max() + np.log(np.float32(self.alpha))
        scored: Float32Array = np.where(e >= threshold, scores, np.float32(-np.inf))
        return scored


def policy_of(decoding: Decoding) -> Greedy | Contrast:
    """The policy of a decoding of the grid."""
    if decoding.alpha is None or decoding.beta is None:
        return Greedy(decoding.name)
    return Contrast(decoding.name, decoding.alpha, decoding.beta, decoding.by_divergence)


def views(expert: Tensor, base: Tensor, alpha: float, apart: Tensor | None = None) -> list[View]:
    """What a step shows of each of its rows.

    Args:
        expert: [E, V] logits.
        base: [E, V] logits, the amateur's.
        alpha: the smallest of the policies that will look.
        apart: [E] how far they are apart, if a policy asks.

    Raises:
        EvaluationError: logits are not finite.
    """
    if not len(expert):
        return []
    expert, base = expert.float(), base.float()
    best = expert.max(dim=1, keepdim=True).values
    # A little more than is valid: each policy draws its own line, to the last bit.
    valid = expert >= best + math.log(alpha) - 1e-3
    counts = valid.sum(1).cpu().numpy()
    ids = valid.nonzero()[:, 1].cpu().numpy()
    e, a = expert[valid].cpu().numpy(), base[valid].cpu().numpy()
    norms = [logits.logsumexp(1).cpu().numpy() for logits in (expert, base)]
    if not (np.isfinite(norms).all() and len(ids)):
        raise EvaluationError("the model's logits are not finite")
    far = np.zeros(len(expert)) if apart is None else apart.cpu().numpy()
    cuts = np.cumsum(counts)[:-1]
    columns = (np.split(values, cuts) for values in (ids, e, a))
    return [
        View(ids, e, a, float(norms[0][i]), float(norms[1][i]), expert[i], base[i], float(far[i]))
        for i, (ids, e, a) in enumerate(zip(*columns, strict=True))
    ]
