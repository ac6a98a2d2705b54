"""How a request wants its tokens picked."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from cold_backend.adapters.defaults import AdapterDefaults
from cold_backend.requests.fields import Inputs, read_choice, read_integer, read_number
from cold_kernels import Mode

_MODES = {
    "cold": Mode.COLD,
    "greedy": Mode.EXPERT,
    "base": Mode.BASE,
    "beam": Mode.EXPERT,
    "cold_beam": Mode.COLD,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a token is picked; the fields are the inputs of the same name, but for these.

    Attributes:
        mode: what the decoding looks at.
        divergence: whether `beta_rule` says so.
    """

    mode: Mode
    alpha: float
    beta: float
    divergence: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int

    @property
    def penalises(self) -> bool:
        """Whether earlier tokens change the scores."""
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )


def read_decoding(inputs: Inputs, defaults: AdapterDefaults) -> str:
    """The decoding's name. Raises InvalidRequestError."""
    return read_choice(inputs, "decoding", defaults.decoding)


def mode_of(decoding: str) -> Mode:
    """What a decoding looks at."""
    return _MODES[decoding]


def read_sampling(inputs: Inputs, decoding: str, defaults: AdapterDefaults) -> Sampling:
    """How tokens are picked with that decoding. Raises InvalidRequestError."""
    return Sampling(
        mode=mode_of(decoding),
        alpha=read_number(inputs, "alpha", defaults.alpha),
        beta=read_number(inputs, "beta", defaults.beta),
        divergence=read_choice(inputs, "beta_rule", defaults.beta_rule) == "divergence",
        temperature=read_number(inputs, "temperature"),
        top_k=read_integer(inputs, "top_k"),
        top_p=read_number(inputs, "top_p"),
        min_p=read_number(inputs, "min_p"),
        repetition_penalty=read_number(inputs, "repetition_penalty"),
        presence_penalty=read_number(inputs, "presence_penalty"),
        frequency_penalty=read_number(inputs, "frequency_penalty"),
        seed=int(inputs["seed"].item()) if "seed" in inputs else secrets.randbits(64),
    )
