"""A request's fields as Python's values, checked as tritonserver checks tensors."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt

from cold_backend.errors import InvalidRequestError
from cold_backend.protocol.inputs import INPUTS
from cold_backend.protocol.tensors import DTYPES, Type
from cold_backend.requests.fields import Inputs


def inputs_of(fields: Mapping[str, object]) -> Inputs:
    """The inputs of `cold` by name.

    Args:
        fields: by name; a list where docs/protocol.md has one, else one value.

    Raises:
        InvalidRequestError: a field does not exist, or is of another type.
    """
    return {name: _array(name, value) for name, value in fields.items()}


def _array(name: str, value: object) -> npt.NDArray[Any]:
    declared = INPUTS.get(name)
    if declared is None:
        raise InvalidRequestError(name, "is not a field of a request")
    values = list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]
    if len(values) != 1 and not declared.many:
        raise InvalidRequestError(name, f"must be one value, got {len(values)}")
    for one in values:
        if not _is_of(declared.type, one):
            raise InvalidRequestError(name, f"must be of type {declared.type}, got {one!r}")
    return np.array(values, DTYPES[declared.type])


def _is_of(wanted: Type, value: object) -> bool:
    if wanted == "BOOL":
        return isinstance(value, bool)
    if wanted == "STRING":
        return isinstance(value, str)
    if isinstance(value, bool):
        return False
    if wanted == "FP32":
        return isinstance(value, Real)
    bounds = np.iinfo(DTYPES[wanted])
    return isinstance(value, Integral) and bounds.min <= int(value) <= bounds.max
