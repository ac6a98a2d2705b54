"""Rules that choose a token from what expert and base say: CoLD, and tries to go beyond it.

All work on the expert's best candidates only (`CANDIDATES` of them), which hold every token that
alpha >= 0.01 leaves in practice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

CANDIDATES = 64


@dataclass(frozen=True)
class View:
    """What one step knows, for R rows and K candidates, best first.

    Attributes:
        ids: [R, K] int64 token ids.
        expert: [R, K] log-probabilities of base + adapter.
        base: [R, K] log-probabilities of the base alone.
        base_best: [R] int64, the base's own choice.
        entropy: [R] of the expert's whole distribution, in nats.
        base_entropy: [R].
        js: [R] Jensen-Shannon divergence of the two, in nats.
        answering: [R] booleans: the final answer has begun.
        first: whether this is the first token of the answer.
    """

    ids: Tensor
    expert: Tensor
    base: Tensor
    base_best: Tensor
    entropy: Tensor
    base_entropy: Tensor
    js: Tensor
    answering: Tensor
    first: bool

    @classmethod
    def of(cls, expert: Tensor, base: Tensor, answering: Tensor, first: bool) -> View:
        """From logits [R, V] of both."""
        e, a = expert.float().log_softmax(-1), base.float().log_softmax(-1)
        p, q = e.exp(), a.exp()
        middle = ((p + q) / 2).clamp_min(1e-30).log()
        best = e.topk(CANDIDATES)
        return cls(
            ids=best.indices,
            expert=best.values,
            base=a.gather(-1, best.indices),
            base_best=a.argmax(-1),
            entropy=-(p * e).sum(-1),
            base_entropy=-(q * a).sum(-1),
            js=((p * (e - middle)).sum(-1) + (q * (a - middle)).sum(-1)) / 2,
            answering=answering,
            first=first,
        )

    def valid(self, alpha: float) -> Tensor:
        """[R, K]: which candidates the mask leaves."""
        return self.expert >= self.expert[:, :1] + math.log(alpha)


Rule = Callable[[View], Tensor]  # [R] int64: index among the candidates, or -1 for the base's best


def greedy(view: View) -> Tensor:
    return torch.zeros(len(view.ids), dtype=torch.int64)


def base(view: View) -> Tensor:
    return torch.full((len(view.ids),), -1)


def pick(view: View, beta: Tensor | float, alpha: float, amateur: Tensor | None = None) -> Tensor:
    """CoLD's choice, with a beta for each row [R, 1] or one for all."""
    against = view.base if amateur is None else amateur
    score = view.expert + beta * (view.expert - against)
    return score.masked_fill(~view.valid(alpha), -math.inf).argmax(-1)


def cold(beta: float, alpha: float) -> Rule:
    return lambda view: pick(view, beta, alpha)


def where(condition: Callable[[View], Tensor], beta: float, alpha: float) -> Rule:
    """CoLD at rows that meet a condition, greedy elsewhere."""
    return lambda view: pick(view, beta * condition(view).float()[:, None], alpha)


def scaled(factor: Callable[[View], Tensor], beta: float, alpha: float) -> Rule:
    """CoLD with a beta that follows the step."""
    return lambda view: pick(view, beta * factor(view)[:, None], alpha)


def tempered(beta: float, alpha: float, temperature: float) -> Rule:
    """Amateur at a temperature; over the candidates, a constant per row changes nothing."""
    return lambda view: pick(view, beta, alpha, view.base / temperature)


def average(weight: float, alpha: float) -> Rule:
    """Mixture of the two distributions instead of their ratio."""

    def rule(view: View) -> Tensor:
        mixed = (1 - weight) * view.expert.exp() + weight * view.base.exp()
        return mixed.masked_fill(~view.valid(alpha), -1.0).argmax(-1)

    return rule


def agrees(view: View) -> Tensor:
    return view.ids[:, 0] == view.base_best


def uncertainty(view: View) -> Tensor:
    """0 to 1: the expert's entropy against that of an even choice among the valid."""
    return (view.entropy / math.log(2)).clamp(max=1.0)


def family(alpha: float, betas: tuple[float, ...]) -> dict[str, Rule]:
    return {f"cold a={alpha:g} b={beta:g}": cold(beta, alpha) for beta in betas}


def adaptive(beta: float, alpha: float) -> dict[str, Rule]:
    """Every rule beyond plain CoLD, at one setting."""
    rules: dict[str, Rule] = {
        "reasoning only": where(lambda v: ~v.answering, beta, alpha),
        "answer only": where(lambda v: v.answering, beta, alpha),
        "first token only": where(lambda v: torch.full((len(v.ids),), v.first), beta, alpha),
        "argmaxes agree": where(agrees, beta, alpha),
        "argmaxes differ": where(lambda v: ~agrees(v), beta, alpha),
        "entropy > 0.5": where(lambda v: v.entropy > 0.5, beta, alpha),
        "entropy < 0.5": where(lambda v: v.entropy < 0.5, beta, alpha),
        "base surer": where(lambda v: v.base_entropy < v.entropy, beta, alpha),
        "base less sure": where(lambda v: v.base_entropy >= v.entropy, beta, alpha),
        "two valid": where(lambda v: v.valid(alpha).sum(-1) == 2, beta, alpha),
        "three or more valid": where(lambda v: v.valid(alpha).sum(-1) > 2, beta, alpha),
        "beta x entropy": scaled(uncertainty, beta, alpha),
        "beta x (1 - entropy)": scaled(lambda v: 1 - uncertainty(v), beta, alpha),
        "beta x JS": scaled(lambda v: v.js / math.log(2), beta, alpha),
        "beta x (1 - JS)": scaled(lambda v: 1 - v.js / math.log(2), beta, alpha),
        "amateur at 0.5": tempered(beta, alpha, 0.5),
        "amateur at 2": tempered(beta, alpha, 2.0),
    }
    return {f"{name} a={alpha:g} b={beta:g}": rule for name, rule in rules.items()}


def grid() -> dict[str, Rule]:
    """Plain CoLD, from beta below 0 (towards the base) to far beyond the expert."""
    return {
        "greedy": greedy,
        **family(0.1, (-0.75, -0.5, -0.25, 0.25, 0.5, 1.0, 2.0, 4.0)),
        **family(0.01, (0.25, 0.5, 1.0, 2.0, 4.0)),
        **family(0.3, (-0.5, 0.5, 1.0, 2.0, 4.0)),
    }


def core() -> dict[str, Rule]:
    """What the study asks of every task, base and adapter."""
    wanted = ("argmaxes agree", "base surer", "two valid", "amateur at 2")
    beyond = {name: rule for name, rule in adaptive(1.0, 0.1).items() if name.startswith(wanted)}
    plain = {**family(0.1, (-0.25, 0.25, 0.5, 1.0, 2.0)), **family(0.3, (0.5, 1.0, 2.0))}
    return {"greedy": greedy, "base": base, **plain, **beyond}


def every() -> dict[str, Rule]:
    return {**grid(), **adaptive(1.0, 0.1), **{f"mix {w:g}": average(w, 0.1) for w in (0.3, 0.5)}}
