"""Which tokens a hypothesis has had: what penalties look at."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cold_backend.contract import COUNT, Table

_SPARE = 64  # rows for tokens that are still to come


class TokenCounts:
    """How often each token stands in the output, as the step contract wants it.

    It is brought up to date by the token, because there may be thousands.

    Args:
        prompt: its tokens count 0 times.
    """

    def __init__(self, prompt: Iterable[int]) -> None:
        seen = [*dict.fromkeys(prompt)]
        self._places = {token: place for place, token in enumerate(seen)}
        self._rows = np.zeros(len(seen) + _SPARE, COUNT)
        self._rows["token"][: len(seen)] = seen

    def add(self, token: int) -> None:
        """Counts a token of the output."""
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros(place, COUNT)])
        self._rows["token"][place] = token
        self._rows["times"][place] += 1

    def table(self, choice: int) -> Table:
        """The counts [n] of COUNT, as those of a choice."""
        rows = self._rows[: len(self._places)].copy()
        rows["choice"] = choice
        return rows
