"""Gumbel noise that every device computes alike, from a row's key and a token's id.

    bits = mix(mix(token ^ key[0]) ^ key[1])
    u = ((bits >> 8) | 1) / 2**24
    noise = -log(-log(u))

`mix` is lowbias32 (github.com/skeeto/hash-prospector): shifts, exclusive ors and the lower words of
products, which every device has as vector operations on 32-bit integers. So u is the same to the
bit everywhere; the logarithms are the device's own.
"""

from __future__ import annotations

from torch import Tensor

# What the noise is between.
LEAST, MOST = -2.82, 16.64
_FACTORS = (0x7FEB352D, 0x846CA68B - (1 << 32))  # as signed numbers


def gumbel(key: Tensor, tokens: Tensor) -> Tensor:
    """Standard Gumbel noise, float32.

    Args:
        key: [R, 2] int32.
        tokens: [R, n] or [n] int32.

    Returns:
        [R, n].
    """
    bits = _mix(_mix(tokens ^ key[:, :1]) ^ key[:, 1:])
    odd = (bits >> 8 & 0xFFFFFF) | 1
    return -(-(odd.float() * 2**-24).log()).log()


def _mix(x: Tensor) -> Tensor:
    """Of int32, whose shifts to the right keep the sign."""
    x = (x ^ (x >> 16 & 0xFFFF)) * _FACTORS[0]
    x = (x ^ (x >> 15 & 0x1FFFF)) * _FACTORS[1]
    return x ^ (x >> 16 & 0xFFFF)
