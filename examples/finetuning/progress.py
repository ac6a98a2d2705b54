"""Progress on the terminal: one line that is rewritten, or a line now and then in a log."""

from __future__ import annotations

import sys

LOG_EVERY = 10


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


class Progress:
    def __init__(self, total: int, start: int = 0) -> None:
        self._total = total
        self._start = start
        self._tokens = 0
        self._seconds = 0.0
        self._terminal = sys.stdout.isatty()

    def update(self, step: int, loss: float, tokens: int, seconds: float) -> None:
        self._tokens += tokens
        self._seconds += seconds
        if not self._terminal and step % LOG_EVERY and step != self._total:
            return
        left = self._seconds / (step - self._start) * (self._total - step)
        line = (
            f"step {step}/{self._total}  loss {loss:.4f}  "
            f"{self._tokens / self._seconds:.0f} tok/s  {clock(left)} left"
        )
        if self._terminal:
            print(f"\r{line}\x1b[K", end="\n" if step == self._total else "", flush=True)
        else:
            print(line, flush=True)
