"""Whether the models do anything, told from the outside."""

from __future__ import annotations

import time
from collections.abc import Callable

from cold_backend.serving.pulse import Signs

# What one look at the signs can count for: a machine that slept, or was paused, has hung itself.
_LONGEST_LOOK_S = 1.0
_SILENCE_S = 2.0  # between two beats something else ran


class Liveness:
    """Judges by the signs of life of `cold`, looked at again and again.

    Args:
        read: the signs.
        waits: whether requests wait to be taken in.
        accept_timeout_s: how long `cold` may be busy with taking in one request, take in none of
            those that wait, or be silent.
        step_timeout_s: how long a step may take.
        clock: seconds.
    """

    def __init__(
        self,
        read: Callable[[], Signs],
        waits: Callable[[], bool],
        accept_timeout_s: float,
        step_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._waits = waits
        self._accept_timeout_s = accept_timeout_s
        self._step_timeout_s = step_timeout_s
        self._clock = clock
        self._looked_s = clock()
        self._beat, self._accepting, self._stepping = _Held(), _Held(), _Held()
        self._idle = _Held()

    @property
    def failure(self) -> str | None:
        """What hangs; None if nothing does, or not for long enough."""
        signs, now_s = self._read(), self._clock()
        look_s = min(now_s - self._looked_s, _LONGEST_LOOK_S)
        self._looked_s = now_s
        silent_s = self._beat.look(signs.beat_s, look_s)
        # Whoever waits for Python's lock does not hang.
        free_s = look_s if silent_s < _SILENCE_S else 0
        accepting_s = self._accepting.look(signs.accepting_s, free_s)
        idle_s = self._idle.look(signs.accepted + 1 if self._waits() else 0, free_s)
        stepping_s = self._stepping.look(signs.stepping_s, look_s)
        # A step may hold Python's lock, while it compiles a kernel for one. All wait for it then.
        silence_s = self._step_timeout_s if signs.stepping_s else self._accept_timeout_s
        if stepping_s > self._step_timeout_s:
            return f"a step has taken more than {self._step_timeout_s:g} s (step_timeout_s)"
        if silent_s > silence_s:
            return f"the process of cold has not run for {silence_s:g} s"
        if max(accepting_s, idle_s) > self._accept_timeout_s:
            return (
                f"cold has taken in nothing for {self._accept_timeout_s:g} s (accept_timeout_s): "
                "it hangs, and requests wait"
            )
        return None


class _Held:
    """How long a sign has stood still, while somebody looked; 0 is no sign."""

    def __init__(self) -> None:
        self._sign = 0.0
        self._held_s = 0.0

    def look(self, sign: float, look_s: float) -> float:
        """Seconds since the sign was first seen as it is."""
        same = sign != 0 and sign == self._sign
        self._held_s = self._held_s + look_s if same else 0.0
        self._sign = sign
        return self._held_s
