"""Differences as colours: blue above 0, orange below, readable under dark text."""

from __future__ import annotations

_NONE, _ABOVE, _BELOW = (242, 244, 247), (110, 168, 228), (240, 160, 96)


def colour(share: float) -> str:
    """The colour of a share from -1 to 1; beyond, that of the end."""
    end, weight = (_ABOVE if share > 0 else _BELOW), min(1.0, abs(share))
    red, green, blue = (round(n + weight * (e - n)) for n, e in zip(_NONE, end, strict=True))
    return f"#{red:02x}{green:02x}{blue:02x}"
