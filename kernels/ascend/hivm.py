"""What the HIVM of a kernel says about how it will run."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ELEMENT_BITS = re.compile(r"[a-z]+(\d+)")
_CONSTANT = re.compile(r"(%c[\w-]+) = arith.constant (-?\d+) : i64")
_BUFFER = re.compile(r"pointer_cast\((%[\w, %-]+)\) : memref<([\dx]*?)([a-z]+\d+)[^>]*<ub>>")
_SELECTED_BUFFER = re.compile(r"arith\.select .* : memref<.*<ub>>")


@dataclass(frozen=True)
class Profile:
    """Counts of one kernel.

    Attributes:
        buffer_bytes: the unified buffer that it takes.
        vector_calls: calls of vector and copy routines in the text.
        scalar_loops: innermost loops that touch memory element by element, without any such call.
        double_buffered: whether it loads the next tile while it computes on this one.
    """

    buffer_bytes: int
    vector_calls: int
    scalar_loops: int
    double_buffered: bool


def profile(hivm: str, function: str) -> Profile:
    """Reads a kernel's HIVM; the function is its name in it."""
    body = _bodies(hivm, function)
    return Profile(
        buffer_bytes=_buffer_bytes(body),
        vector_calls=body.count("call @"),
        scalar_loops=sum(_is_scalar(loop) for loop in _innermost_loops(body)),
        double_buffered=_SELECTED_BUFFER.search(body) is not None,
    )


def _bodies(hivm: str, function: str) -> str:
    """The kernel's functions: one, or two (`_mix_aic`, `_mix_aiv`) if it multiplies matrices."""
    parts = re.split(r"^  func\.func ", hivm, flags=re.MULTILINE)
    own = re.compile(rf"@{function}(_mix_ai[cv])?\(")
    return "".join(part for part in parts if own.match(part))


def _buffer_bytes(body: str) -> int:
    constants = dict(_CONSTANT.findall(body))
    ends = [0]
    for offsets, shape, element in _BUFFER.findall(body):
        size = int(_ELEMENT_BITS.fullmatch(element)[1]) / 8  # type: ignore[index]
        for extent in filter(None, shape.split("x")):
            size *= int(extent)
        ends += [int(constants[offset.strip()]) + int(size) for offset in offsets.split(",")]
    return max(ends)


def _innermost_loops(body: str) -> list[str]:
    """The texts of the loops that hold no other loop."""
    loops = []
    lines = body.splitlines()
    for first, line in enumerate(lines):
        if "scf.for" not in line:
            continue
        indent = len(line) - len(line.lstrip())
        last = next(
            i for i in range(first + 1, len(lines)) if lines[i].startswith(" " * indent + "}")
        )
        inner = lines[first + 1 : last]
        if not any("scf.for" in text for text in inner):
            loops.append("\n".join(inner))
    return loops


def _is_scalar(loop: str) -> bool:
    # A scatter calls a routine for each element: it shows by the compiler's mark alone.
    return "DiscreteMemAccess" in loop or ("memref.load" in loop and "call @" not in loop)
