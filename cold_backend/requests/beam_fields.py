"""Reads the fields of a request that ask for beam search."""

from __future__ import annotations

from cold_backend.errors import InvalidRequestError
from cold_backend.protocol.inputs import INPUTS
from cold_backend.requests.beam import BeamSettings, EarlyStopping
from cold_backend.requests.fields import (
    PLAIN,
    Inputs,
    check_off,
    read_choice,
    read_integer,
    read_number,
)

_WIDTH = INPUTS["beam_width"]
_DECODINGS = ("beam", "cold_beam")
# Clients may send what has no effect.
_OFF_WITHOUT_BEAMS = {"beam_width": 1, "length_penalty": 1, "early_stopping": None}


def read_beam(inputs: Inputs, decoding: str, most: int) -> BeamSettings | None:
    """How to search; None if `decoding` does not.

    Args:
        inputs: of the request; the ranges of the sampling's fields have been checked.
        decoding: of the request.
        most: hypotheses that run at once.

    Raises:
        InvalidRequestError: a field is out of range, or means nothing with this decoding.
    """
    if decoding not in _DECODINGS:
        check_off(inputs, _OFF_WITHOUT_BEAMS, f"only with decoding {' or '.join(_DECODINGS)}")
        return None
    check_off(inputs, PLAIN, f"not with decoding {decoding}")
    if most < _WIDTH.low:
        raise InvalidRequestError("decoding", f"{decoding} needs max_sequences of 2 or more")
    return BeamSettings(
        width=read_integer(inputs, "beam_width", min(_WIDTH.default, most), high=most),
        length_penalty=read_number(inputs, "length_penalty"),
        early_stopping=EarlyStopping(read_choice(inputs, "early_stopping")),
    )
