"""The kernels of lora_apply; what they compute is in `cold_kernels.ops`.

Few tokens, each with an adapter of its own: `cold_lora_shrink`, `cold_lora_expand` take one token
at a time. Many tokens, neighbours mostly with the same adapter: `cold_lora_shrink_tiles`,
`cold_lora_expand_tiles` take TOKENS of them, adapter by adapter, as matrix products.
"""

import triton
import triton.language as tl


@triton.jit
def cold_lora_shrink(
    x,  # [T, N]
    a,  # [L, K, N]
    rank,  # [L] int32
    index,  # [T] int32
    shrunk,  # [T, K] float32
    tokens,
    ranks,
    inputs,
    RANKS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """shrunk[t, k] = a[l, k] . x[t] for l = index[t], k < rank[l]; RANKS of k at a time.

    Mutates: shrunk; what no adapter reads is left as it is, or zero.
    """
    blocks = (ranks + RANKS - 1) // RANKS
    for item in range(tl.program_id(0), tokens * blocks, tl.num_programs(0)):
        token = item // blocks
        k = (item - token * blocks) * RANKS
        adapter = tl.load(index + token)
        if adapter >= 0:
            if k < tl.load(rank + adapter):
                at_rank = k + tl.arange(0, RANKS)
                rows = a + adapter.to(tl.int64) * ranks * inputs + at_rank[:, None] * inputs
                x_row = x + tl.cast(token, tl.int64) * inputs
                sums = tl.zeros([RANKS, INPUTS], tl.float32)
                for start in range(0, inputs, INPUTS):
                    at = start + tl.arange(0, INPUTS)
                    here = at < inputs
                    v = tl.load(x_row + at, mask=here, other=0.0).to(tl.float32)
                    inside = (at_rank < ranks)[:, None] & here[None, :]
                    w = tl.load(rows + at[None, :], mask=inside, other=0.0).to(tl.float32)
                    sums += w * v[None, :]
                at_shrunk = shrunk + token * ranks + at_rank
                tl.store(at_shrunk, tl.sum(sums, 1), mask=at_rank < ranks)


@triton.jit
def cold_lora_expand(
    y,  # [T, M], rows y_stride apart
    shrunk,  # [T, K] float32
    b,  # [L, K, M]
    scale,  # [L] float32
    rank,  # [L] int32
    index,  # [T] int32
    strength,  # [T] float32
    tokens,
    ranks,
    outputs,
    y_stride,
    OUTPUTS: tl.constexpr,
):
    """y[t] += scale[l] * strength[t] * sum_k shrunk[t, k] * b[l, k], l = index[t], k < rank[l].

    Mutates: y, but no row whose index is negative.
    """
    blocks = (outputs + OUTPUTS - 1) // OUTPUTS
    for item in range(tl.program_id(0), tokens * blocks, tl.num_programs(0)):
        token = item // blocks
        adapter = tl.load(index + token)
        if adapter >= 0:
            at = (item - token * blocks) * OUTPUTS + tl.arange(0, OUTPUTS)
            here = at < outputs
            sums = tl.zeros([OUTPUTS], tl.float32)
            row = b + adapter.to(tl.int64) * ranks * outputs
            used = tl.load(rank + adapter)
            for k in range(used):
                w = tl.load(row + k * outputs + at, mask=here, other=0.0).to(tl.float32)
                sums += w * tl.load(shrunk + token * ranks + k)
            if used > 0:
                place = y + tl.cast(token, tl.int64) * y_stride + at
                old = tl.load(place, mask=here, other=0.0).to(tl.float32)
                new = old + sums * (tl.load(scale + adapter) * tl.load(strength + token))
                tl.store(place, new.to(y.dtype.element_ty), mask=here)


@triton.jit
def cold_lora_shrink_tiles(
    x,  # [T, N]
    a,  # [L, K, N]
    index,  # [T] int32
    shrunk,  # [T, K] float32
    tokens,
    ranks,
    inputs,
    TOKENS: tl.constexpr,
    RANKS: tl.constexpr,
    INPUTS: tl.constexpr,
    WIDENS: tl.constexpr,
):
    """As cold_lora_shrink, for TOKENS tokens and all ranks (at most RANKS) at a time.

    WIDENS multiplies in float32 from the start, where 16-bit products are not to be had.

    Mutates: shrunk, but no row whose index is negative.
    """
    tiles = (tokens + TOKENS - 1) // TOKENS
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        t = tl.arange(0, TOKENS)
        at_token = tile * TOKENS + t
        x_rows = x + tl.cast(tile * TOKENS, tl.int64) * inputs
        at_rank = tl.arange(0, RANKS)
        left = tl.load(index + at_token, mask=at_token < tokens, other=-1)
        adapter = tl.max(left, 0)
        while adapter >= 0:
            mine = left == adapter
            rows = a + adapter.to(tl.int64) * ranks * inputs
            sums = tl.zeros([TOKENS, RANKS], tl.float32)
            for start in range(0, inputs, INPUTS):
                at = start + tl.arange(0, INPUTS)
                here = at < inputs
                v = tl.load(
                    x_rows + t[:, None] * inputs + at[None, :],
                    mask=(at_token < tokens)[:, None] & here[None, :],
                    other=0.0,
                )  # [TOKENS, INPUTS]
                w = tl.load(
                    rows + at_rank[:, None] * inputs + at[None, :],
                    mask=(at_rank < ranks)[:, None] & here[None, :],
                    other=0.0,
                )  # [RANKS, INPUTS]
                if WIDENS:
                    v = v.to(tl.float32)
                    w = w.to(tl.float32)
                sums = tl.dot(v, tl.trans(w), sums, input_precision="ieee")
            tl.store(
                shrunk + at_token[:, None] * ranks + at_rank[None, :],
                sums,
                mask=mine[:, None] & (at_rank < ranks)[None, :],
            )
            left = tl.where(mine, -1, left)
            adapter = tl.max(left, 0)


@triton.jit
def cold_lora_expand_tiles(
    y,  # [T, M], rows y_stride apart
    shrunk,  # [T, K] float32
    b,  # [L, K, M]
    scale,  # [L] float32
    rank,  # [L] int32
    index,  # [T] int32
    strength,  # [T] float32
    tokens,
    ranks,
    outputs,
    y_stride,
    TOKENS: tl.constexpr,
    RANKS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """As cold_lora_expand, for TOKENS tokens at a time.

    Mutates: y, but no row whose index is negative.
    """
    tiles = (tokens + TOKENS - 1) // TOKENS
    blocks = (outputs + OUTPUTS - 1) // OUTPUTS
    for item in range(tl.program_id(0), tiles * blocks, tl.num_programs(0)):
        tile = item // blocks
        t = tl.arange(0, TOKENS)
        at_token = tile * TOKENS + t
        y_rows = y + tl.cast(tile * TOKENS, tl.int64) * y_stride
        at_rank = tl.arange(0, RANKS)
        at = (item - tile * blocks) * OUTPUTS + tl.arange(0, OUTPUTS)
        here = at < outputs
        left = tl.load(index + at_token, mask=at_token < tokens, other=-1)
        strengths = tl.load(strength + at_token, mask=at_token < tokens, other=0.0)
        adapter = tl.max(left, 0)
        while adapter >= 0:
            mine = left == adapter
            rows = b + adapter.to(tl.int64) * ranks * outputs
            h = tl.load(
                shrunk + at_token[:, None] * ranks + at_rank[None, :],
                mask=mine[:, None] & (at_rank < ranks)[None, :],
                other=0.0,
            )  # [TOKENS, RANKS]
            w = tl.load(
                rows + at_rank[:, None] * outputs + at[None, :],
                mask=(at_rank < ranks)[:, None] & here[None, :],
                other=0.0,
            ).to(tl.float32)  # [RANKS, OUTPUTS]
            sums = tl.dot(h, w, input_precision="ieee")
            # A rank of 0 is an adapter that leaves this layer alone, bit for bit.
            if tl.load(rank + adapter) > 0:
                written = mine[:, None] & here[None, :]
                place = y_rows + t[:, None] * y_stride + at[None, :]
                old = tl.load(place, mask=written, other=0.0).to(tl.float32)
                new = old + sums * (tl.load(scale + adapter) * strengths)[:, None]
                tl.store(place, new.to(y.dtype.element_ty), mask=written)
            left = tl.where(mine, -1, left)
            adapter = tl.max(left, 0)
