"""How a request wants its tokens picked."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from cold_backend.adapters.defaults import AdapterDefaults
from cold_backend.contract import STRONGEST
from cold_backend.errors import InvalidRequestError
from cold_backend.requests.fields import Inputs, read_integer, read_name, read_number
from cold_kernels import Mode

_MODES = {
    "cold": Mode.COLD,
    "greedy": Mode.EXPERT,
    "base": Mode.BASE,
    "beam": Mode.EXPERT,
    "cold_beam": Mode.COLD,
}
_INT32_MAX = 2**31 - 1
_WEAKEST = 1 / STRONGEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a token is picked; the fields are the inputs of the same name."""

    mode: Mode
    alpha: float
    beta: float
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
    decoding = read_name(inputs, "decoding") or defaults.decoding
    if decoding not in _MODES:
        raise InvalidRequestError(
            "decoding", f"must be one of {', '.join(_MODES)}, got {decoding!r}"
        )
    return decoding


def read_sampling(inputs: Inputs, decoding: str, defaults: AdapterDefaults) -> Sampling:
    """How tokens are picked with that decoding. Raises InvalidRequestError."""
    return Sampling(
        mode=_MODES[decoding],
        alpha=read_number(inputs, "alpha", defaults.alpha, 0, 1, open_low=True),
        beta=read_number(inputs, "beta", defaults.beta, 0, STRONGEST),
        temperature=read_number(inputs, "temperature", 0, _WEAKEST, STRONGEST, or_zero=True),
        top_k=read_integer(inputs, "top_k", 0, 0, _INT32_MAX),
        top_p=read_number(inputs, "top_p", 1, 0, 1, open_low=True),
        min_p=read_number(inputs, "min_p", 0, 0, 1),
        repetition_penalty=read_number(inputs, "repetition_penalty", 1, _WEAKEST, STRONGEST),
        presence_penalty=read_number(inputs, "presence_penalty", 0, -2, 2),
        frequency_penalty=read_number(inputs, "frequency_penalty", 0, -2, 2),
        seed=int(inputs["seed"].item()) if "seed" in inputs else secrets.randbits(64),
    )
