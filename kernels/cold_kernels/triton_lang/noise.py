"""The noise of `cold_kernels.noise`, for kernels."""

import triton
import triton.language as tl

_FIRST = tl.constexpr(0x7FEB352D)
_SECOND = tl.constexpr(0x846CA68B - (1 << 32))


@triton.jit
def _mix(x):
    # Of int32, whose shifts to the right keep the sign.
    x = (x ^ ((x >> 16) & 0xFFFF)) * _FIRST
    x = (x ^ ((x >> 15) & 0x1FFFF)) * _SECOND
    return x ^ ((x >> 16) & 0xFFFF)


@triton.jit
def gumbel(ids, first, second):
    """The noise of tokens, from the two words of their row's key; see `cold_kernels.noise`."""
    bits = _mix(_mix(ids ^ first) ^ second)
    odd = ((bits >> 8) & 0xFFFFFF) | 1
    return -tl.log(-tl.log(odd.to(tl.float32) * 5.9604644775390625e-08))
