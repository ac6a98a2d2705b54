"""The kernel of head_gather that goes between the two of contrast_select."""

import triton
import triton.language as tl

from cold_kernels.triton_lang.contrast import COLD, INFINITY, NEVER, NO_TOKEN, row_maximum


@triton.jit
def cold_gather_head(
    expert,  # [R, V]
    hidden,  # [R, H]
    head,  # [V, H]
    mode,  # [R] int32
    alpha,  # [R] float32
    highest,  # [R, S] float32, from cold_tile_stats; unset for rows in base mode
    gathered,  # [R, V] float32
    rows,
    vocab,
    width,
    tiles,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Writes the base's logits of the tokens in each contrasted row's valid set.

    The products are read and summed WIDTH numbers at a time.

    Mutates: gathered, at those tokens alone.
    """
    for item in range(tl.program_id(0), rows * tiles, tl.num_programs(0)):
        row = item // tiles
        if tl.load(mode + row) == COLD:
            start = (item - row * tiles) * TILE
            top = row_maximum(highest + row * tiles, tiles, TILES)
            cutoff = top + tl.log(tl.load(alpha + row))
            live = (top < INFINITY) & (top > NEVER)
            if live & (tl.load(highest + item) >= cutoff):
                offset = tl.cast(row, tl.int64) * vocab
                ids = start + tl.arange(0, TILE)
                x = tl.load(expert + offset + ids, mask=ids < vocab, other=NEVER).to(tl.float32)
                valid = (x >= cutoff) & (x > NEVER)
                h_row = hidden + tl.cast(row, tl.int64) * width
                token = -1
                for _ in range(tl.sum(tl.where(valid, 1, 0), 0)):
                    token = tl.min(tl.where(valid & (ids > token), ids, NO_TOKEN), 0)
                    logit = _dot(h_row, head + token.to(tl.int64) * width, width, WIDTH)
                    tl.store(gathered + offset + token, logit)


@triton.jit
def _dot(x, w, width, WIDTH: tl.constexpr):
    sums = tl.zeros([WIDTH], tl.float32)
    for start in range(0, width, WIDTH):
        at = start + tl.arange(0, WIDTH)
        here = at < width
        u = tl.load(x + at, mask=here, other=0.0).to(tl.float32)
        v = tl.load(w + at, mask=here, other=0.0).to(tl.float32)
        sums += u * v
    return tl.sum(sums, 0)
