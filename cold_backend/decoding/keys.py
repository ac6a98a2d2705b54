"""What a choice's noise is made from: its seed and its position, nothing else.

So a seed gives the same tokens in any batch, whatever else is in it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cold_backend.contract import Table

_Words = npt.NDArray[np.uint64]
_STRIDE = np.uint64(0x9E3779B97F4A7C15)  # between positions: 2**64 over the golden ratio
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def noise_keys(choices: Table) -> npt.NDArray[np.int32]:
    """Keys [E, 2] of the ops' noise (`cold_kernels.noise`)."""
    positions = choices["position"].astype(np.uint64)
    words = _mix(_mix(choices["seed"].astype(np.uint64)) + _STRIDE * positions)
    return words.astype("<u8").view("<i4").reshape(-1, 2).astype(np.int32)


def _mix(x: _Words) -> _Words:
    """The finaliser of splitmix64 (prng.di.unimi.it)."""
    x = (x ^ x >> np.uint64(30)) * _FACTORS[0]
    x = (x ^ x >> np.uint64(27)) * _FACTORS[1]
    mixed: _Words = x ^ x >> np.uint64(31)
    return mixed
