"""The adapters that a prompt is read with."""

from __future__ import annotations

from cold_backend.contract import MAX_ADAPTERS
from cold_backend.errors import InvalidRequestError
from cold_backend.requests.fields import Inputs, read_names, read_number, read_numbers

Mixture = tuple[tuple[str, float], ...]  # adapters by name and their strengths; none is the base

NAMES = "lora_names"
_SCALES = "lora_scales"
_ALONE = ("lora_name", "lora_scale")  # fields of a request with one adapter


def read_mixture(inputs: Inputs) -> Mixture:
    """The adapters of a request that names several; empty if it does not.

    Raises:
        InvalidRequestError: a field is malformed or out of range, or not allowed with them.
    """
    if NAMES not in inputs:
        if _SCALES in inputs:
            raise InvalidRequestError(_SCALES, f"only with {NAMES}")
        return ()
    for other in _ALONE:
        if other in inputs:
            raise InvalidRequestError(other, f"not with {NAMES}")
    names = read_names(inputs, NAMES, MAX_ADAPTERS)
    if len({*names}) < len(names):
        raise InvalidRequestError(NAMES, "an adapter must not be named twice")
    if _SCALES in inputs:
        scales = read_numbers(inputs, _SCALES, len(names))
    else:
        scales = (read_number(inputs, "lora_scale"),) * len(names)
    return tuple(zip(names, scales, strict=True))
