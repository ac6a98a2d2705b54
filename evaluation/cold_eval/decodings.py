"""The decodings that are compared."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cold_backend.protocol.inputs import INPUTS
from cold_eval.amateurs import BASE as BASE_AMATEUR
from cold_eval.amateurs import Amateur
from cold_eval.errors import EvaluationError
from cold_eval.items import Item

_BEAM = re.compile(r"beam(\d+)")
_VOTE = re.compile(r"vote(\d+)")
_ALLOWED = (
    "base, greedy, cold, scaled (greedy with another lora_scale), beamN (beam search), "
    "voteN (N samples, the commonest answer)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """One way to decode.

    Attributes:
        name: what tables call it.
        kind: `base`, `greedy`, `cold` or `beam`.
        by_divergence: whether beta is times how far expert and amateur are apart.
        amateur: what `cold` contrasts with, see `amateurs`.
        lora_scale: strength of the adapter; 1 is as trained.
        beam_width: of `beam`.
        samples: answers of which the commonest counts; 1 unless temperature is above 0.
    """

    name: str
    kind: str
    alpha: float | None = None
    beta: float | None = None
    by_divergence: bool = False
    amateur: str = BASE_AMATEUR
    lora_scale: float = 1.0
    beam_width: int | None = None
    temperature: float = 0.0
    samples: int = 1

    @property
    def in_grid(self) -> bool:
        """Whether the choice of each token follows from expert and amateur logits alone.

        Those that see the same can then be decoded as one tree, see `by_logits`.
        """
        return self.kind in ("greedy", "cold") and self.samples == 1

    def fields(self, item: Item) -> dict[str, Any]:
        """The inputs of docs/protocol.md, but the prompt. Raises EvaluationError."""
        contrasts = self.kind == "cold"
        given = {
            "decoding": self.kind,
            "alpha": self.alpha,
            "beta": self.beta,
            # Said always: a server's adapter may have another default.
            "lora_scale": self.lora_scale,
            "beam_width": self.beam_width,
            "temperature": self.temperature or None,
            "beta_rule": "divergence" if self.by_divergence else "fixed" if contrasts else None,
        }
        found = {name: value for name, value in given.items() if value is not None}
        return found | (Amateur(self.amateur).fields(item) if contrasts else {})


GREEDY = Decoding(name="greedy", kind="greedy")
BASE = Decoding(name="base", kind="base")


def cold(
    alpha: float, beta: float, amateur: str = BASE_AMATEUR, *, by_divergence: bool = False
) -> Decoding:
    """A point of the grid.

    Raises:
        EvaluationError: alpha or beta is out of range, or there is no such amateur.
    """
    Amateur(amateur).check()
    if not 0 < alpha <= 1:
        raise EvaluationError(f"alpha: must be in (0, 1], got {alpha:g}")
    if not 0 <= beta < float("inf"):
        raise EvaluationError(f"beta: must be a finite number of at least 0, got {beta:g}")
    name = f"cold a={alpha:g} b={beta:g}"
    name += " by divergence" if by_divergence else ""
    name += "" if amateur == BASE_AMATEUR else f" vs {amateur}"
    return Decoding(
        name=name,
        kind="cold",
        alpha=alpha,
        beta=beta,
        by_divergence=by_divergence,
        amateur=amateur,
    )


def grid(
    alphas: Sequence[float],
    betas: Sequence[float],
    amateurs: Sequence[str] = (BASE_AMATEUR,),
    rules: Sequence[str] = ("fixed",),
) -> list[Decoding]:
    """Every alpha with every beta above 0, amateur and rule of beta: beta 0 is greedy.

    Raises:
        EvaluationError: a value is out of range, or there is no such amateur or rule.
    """
    for rule in rules:
        if refusal := INPUTS["beta_rule"].refusal(rule):
            raise EvaluationError(f"beta-rules: {refusal}")
    kinds = itertools.product(dict.fromkeys(amateurs), dict.fromkeys(rules))
    pairs = [*itertools.product(dict.fromkeys(alphas), dict.fromkeys(betas))]
    return [
        cold(alpha, beta, amateur, by_divergence=rule == "divergence")
        for amateur, rule in kinds
        for alpha, beta in pairs
        if beta != 0
    ]


def scaled(scales: Sequence[float]) -> list[Decoding]:
    """Greedy with the adapter at each strength but 1, which is greedy itself.

    Raises:
        EvaluationError: a strength is out of range.
    """
    for scale in scales:
        if refusal := INPUTS["lora_scale"].refusal(scale):
            raise EvaluationError(f"lora-scales: {refusal}")
    return [
        Decoding(name=f"greedy s={scale:g}", kind="greedy", lora_scale=scale)
        for scale in dict.fromkeys(scales)
        if scale != 1
    ]


def by_logits(decodings: Iterable[Decoding]) -> dict[tuple[float, str], list[Decoding]]:
    """Decodings by the strength of the adapter and by amateur: those of one see the same logits.

    One that contrasts nothing is with whatever others there are of its strength.
    """
    groups: dict[tuple[float, str], list[Decoding]] = {}
    alone = []
    for decoding in decodings:
        if decoding.kind == "cold":
            groups.setdefault((decoding.lora_scale, decoding.amateur), []).append(decoding)
        else:
            alone.append(decoding)
    for decoding in alone:
        scale, is_base = decoding.lora_scale, decoding.kind == "base"
        like = [of for of in groups if of[0] == scale and (not is_base or of[1] == BASE_AMATEUR)]
        groups.setdefault(next(iter(like), (scale, BASE_AMATEUR)), []).append(decoding)
    return groups


def decodings_of(
    names: Sequence[str],
    *,
    alphas: Sequence[float],
    betas: Sequence[float],
    temperature: float,
    lora_scales: Sequence[float] = (),
    amateurs: Sequence[str] = (BASE_AMATEUR,),
    rules: Sequence[str] = ("fixed",),
) -> list[Decoding]:
    """What is named, greedy first, which the others are compared with.

    Raises:
        EvaluationError: a name is unknown or a value out of range.
    """
    if not 0 < temperature < float("inf"):
        raise EvaluationError(f"temperature: must be above 0, got {temperature:g}")
    chosen = [GREEDY]
    for name in dict.fromkeys(names):
        beam, vote = _BEAM.fullmatch(name), _VOTE.fullmatch(name)
        if name == "cold":
            chosen += grid(alphas, betas, amateurs, rules)
        elif name == "scaled":
            chosen += scaled(lora_scales)
        elif beam and int(beam[1]) > 1:
            chosen.append(Decoding(name=name, kind="beam", beam_width=int(beam[1])))
        elif vote and int(vote[1]) > 1:
            chosen.append(
                Decoding(
                    name=f"{name} t={temperature:g}",
                    kind="greedy",
                    temperature=temperature,
                    samples=int(vote[1]),
                )
            )
        elif name == "base":
            chosen.append(BASE)
        elif name != "greedy":
            raise EvaluationError(f"decoding: must be one of {_ALLOWED}, got {name!r}")
    return chosen
