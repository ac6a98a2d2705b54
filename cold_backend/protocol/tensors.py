"""What the tensors of the protocol are: a row each of its table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Type = Literal["BOOL", "FP32", "INT32", "INT64", "STRING", "UINT64"]

DTYPES: dict[Type, npt.DTypeLike] = {
    "BOOL": np.bool_,
    "FP32": np.float32,
    "INT32": np.int32,
    "INT64": np.int64,
    "STRING": np.object_,
    "UINT64": np.uint64,
}


@dataclass(frozen=True, slots=True)
class Input:
    """An input, which a client may leave out.

    Attributes:
        name: of the tensor.
        type: tritonserver's.
        meaning: a line of docs/protocol.md, like all notes.
        many: a list; otherwise one element.
        default: None where there is none, or where it has to be found out.
        default_note: what it is then, or may be instead.
        low: the smallest number allowed.
        high: the largest; infinite if its type alone bounds it.
        open_low: `low` itself is not allowed.
        or_zero: 0 is allowed too.
        high_note: what bounds it as well and is known with the request only.
        choices: of a text, if it is one of a few.
        allowed_note: what else is allowed, where there is neither a range nor choices.
        shapes: changes how tokens are picked from their scores; must have its default with beams
            and with a `continuation`.
    """

    name: str
    type: Type
    meaning: str = ""
    many: bool = False
    default: Any = None
    default_note: str = ""
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    or_zero: bool = False
    high_note: str = ""
    choices: tuple[str, ...] = ()
    allowed_note: str = ""
    shapes: bool = False

    def refusal(self, value: object, high: float = math.inf) -> str:
        """Why a value is not allowed; empty if it is.

        Args:
            value: a number, or a text that has choices.
            high: the largest number here, where that is less than everywhere.
        """
        if self.choices:
            good = value in self.choices
            shown = repr(value)
        else:
            number = float(value)  # type: ignore[arg-type]
            good = self._holds(number, min(self.high, high))
            shown = f"{number:g}" if self.type == "FP32" else str(value)
        return "" if good else f"must be {self.allowed(high)}, got {shown}"

    def allowed(self, high: float = math.inf) -> str:
        """What values may be, as a text; empty if all may."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.low == -math.inf:
            return self.allowed_note
        high = min(self.high, high)
        if self.type != "FP32":
            return f"at least {self.low}" if high == math.inf else f"{self.low} to {high}"
        if high == math.inf:
            return f"a finite number {'above' if self.open_low else 'of at least'} {self.low:g}"
        zero = "0 or " if self.or_zero else ""
        return f"{zero}in {'(' if self.open_low else '['}{self.low:g}, {high:g}]"

    def _holds(self, number: float, high: float) -> bool:
        above = number > self.low if self.open_low else number >= self.low
        inside = above and number <= high and math.isfinite(number)
        return inside or (self.or_zero and number == 0)


@dataclass(frozen=True, slots=True)
class Output:
    """An output.

    Attributes:
        name: of the tensor.
        type: tritonserver's.
        when: in which responses it is, a line of docs/protocol.md.
        meaning: likewise.
        many: a list, one element a token; otherwise one element.
    """

    name: str
    type: Type
    when: str
    meaning: str
    many: bool = False
