"""Reads the fields of a request that ask for beam search."""

from __future__ import annotations

from cold_backend.errors import InvalidRequestError
from cold_backend.requests.beam import BeamSettings, EarlyStopping
from cold_backend.requests.fields import (
    PLAIN,
    Inputs,
    check_off,
    read_integer,
    read_name,
    read_number,
)

DEFAULT_BEAM_WIDTH = 4
MAX_BEAM_WIDTH = 32
_DECODINGS = ("beam", "cold_beam")
_STOPPINGS = {stopping.value: stopping for stopping in EarlyStopping}
# Clients may send what has no effect.
_OFF_WITHOUT_BEAMS = {"beam_width": 1, "length_penalty": 1, "early_stopping": None}


def read_beam(inputs: Inputs, decoding: str, slots: int) -> BeamSettings | None:
    """How to search; None if `decoding` does not.

    Args:
        inputs: of the request; the ranges of the sampling's fields have been checked.
        decoding: of the request.
        slots: that the server has.

    Raises:
        InvalidRequestError: a field is out of range, or means nothing with this decoding.
    """
    if decoding not in _DECODINGS:
        check_off(inputs, _OFF_WITHOUT_BEAMS, f"only with decoding {' or '.join(_DECODINGS)}")
        return None
    check_off(inputs, PLAIN, f"not with decoding {decoding}")
    widest = min(MAX_BEAM_WIDTH, slots)
    if widest < 2:
        raise InvalidRequestError("decoding", f"{decoding} needs max_sequences of 2 or more")
    stopping = read_name(inputs, "early_stopping") or EarlyStopping.FALSE.value
    if stopping not in _STOPPINGS:
        raise InvalidRequestError(
            "early_stopping", f"must be one of {', '.join(_STOPPINGS)}, got {stopping!r}"
        )
    return BeamSettings(
        width=read_integer(inputs, "beam_width", min(DEFAULT_BEAM_WIDTH, widest), 2, widest),
        length_penalty=read_number(inputs, "length_penalty", 1, -10, 10),
        early_stopping=_STOPPINGS[stopping],
    )
