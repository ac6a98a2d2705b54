"""The kernels of contrast_select; what they compute is in `cold_kernels.ops`.

The logits are cut into tiles of TILE tokens, S of them to a row. `cold_tile_stats` reads every
logit once, all cores at a time. Its maxima say which tiles can hold the pick; `cold_pick` reads
only those, which are few where the valid set is small.
"""

import triton
import triton.language as tl

from cold_kernels.triton_lang.noise import gumbel

# cold_kernels.ops.Mode
COLD = tl.constexpr(0)
EXPERT = tl.constexpr(1)
BASE = tl.constexpr(2)

NEVER = tl.constexpr(float("-inf"))
INFINITY = tl.constexpr(float("inf"))
NO_TOKEN = tl.constexpr(2147483647)

# How far below the best score, in temperatures, a token can still win: `cold_kernels.noise`.
REACH = tl.constexpr(19.5)


@triton.jit
def cold_tile_stats(
    expert,  # [R, V]
    base,  # [R, V]
    mode,  # [R] int32
    highest,  # [2, R, S] float32: of expert, of base
    total,  # [2, R, S] float32
    rows,
    vocab,
    tiles,
    TILE: tl.constexpr,
):
    """Finds each tile's maximum and its sum of exp(logit - maximum).

    The maximum is +inf where a logit is NaN or +inf. What a row's mode does not read stays.

    Mutates: highest, total.
    """
    for item in range(tl.program_id(0), rows * tiles, tl.num_programs(0)):
        row = item // tiles
        start = (item - row * tiles) * TILE
        offset = tl.cast(row, tl.int64) * vocab
        kind = tl.load(mode + row)
        if kind != BASE:
            _tile_stats(expert + offset, start, vocab, highest + item, total + item, TILE)
        if kind != EXPERT:
            place = rows * tiles + item
            _tile_stats(base + offset, start, vocab, highest + place, total + place, TILE)


@triton.jit
def _tile_stats(logits, start, vocab, highest, total, TILE: tl.constexpr):
    ids = start + tl.arange(0, TILE)
    x = tl.load(logits + ids, mask=ids < vocab, other=NEVER).to(tl.float32)
    usable = x < INFINITY
    broken = tl.sum(tl.where(usable, 0.0, 1.0), 0)
    x = tl.where(usable, x, NEVER)
    top = tl.max(x, 0)
    origin = tl.where(top > NEVER, top, 0.0)  # -inf - -inf is NaN
    tl.store(total, tl.sum(tl.exp(x - origin), 0))
    tl.store(highest, tl.where(broken > 0, INFINITY, top))


@triton.jit
def _row_maximum(highest, tiles, TILES: tl.constexpr):
    """The maximum of a row, from its tiles' [S]."""
    tile = tl.arange(0, TILES)
    return tl.max(tl.load(highest + tile, mask=tile < tiles, other=NEVER), 0)


@triton.jit
def _log_sum_exp(highest, total, top, tiles, TILES: tl.constexpr):
    """log(sum(exp(logits))) of a row, from its tiles' [S] and the row's finite maximum."""
    tile = tl.arange(0, TILES)
    maxima = tl.load(highest + tile, mask=tile < tiles, other=NEVER)
    totals = tl.load(total + tile, mask=tile < tiles, other=0.0)
    return top + tl.log(tl.sum(totals * tl.exp(maxima - top), 0))


@triton.jit
def _scan(
    own,  # [V] logits that decide which tokens are candidates
    base,  # [V] what they are contrasted with; not read without CONTRAST
    key,  # [2]; not read without SAMPLE
    highest,  # [S] of own
    cutoff,
    beta,
    temperature,
    best,
    vocab,
    tiles,
    CONTRAST: tl.constexpr,
    SAMPLE: tl.constexpr,
    TILE: tl.constexpr,
):
    """Finds the candidate of the best key, among the tokens whose logit reaches the cutoff.

    The key is the score, or with SAMPLE (score - best) / temperature + noise.

    Returns: the key, the token, how many candidates there are.
    """
    top = NEVER
    token = -1
    count = 0.0
    for tile in range(tiles):
        if tl.load(highest + tile) >= cutoff:
            ids = tile * TILE + tl.arange(0, TILE)
            inside = ids < vocab
            x = tl.load(own + ids, mask=inside, other=NEVER).to(tl.float32)
            valid = (x >= cutoff) & (x > NEVER)
            score = x
            if CONTRAST:
                a = tl.load(base + ids, mask=inside, other=0.0).to(tl.float32)
                score = tl.where(beta == 0.0, x, x + beta * (x - a))
            if SAMPLE:
                noise = gumbel(ids, tl.load(key), tl.load(key + 1))
                score = tl.where(score == best, 0.0, score - best) / temperature + noise
            score = tl.where(valid, score, NEVER)
            tile_top = tl.max(score, 0)
            count += tl.sum(tl.where(valid, 1.0, 0.0), 0)
            if tile_top > top:
                top = tile_top
                token = tl.min(tl.where(score == tile_top, ids, NO_TOKEN), 0)
    return top, token, count


@triton.jit
def _choose(
    own,  # [V]
    base,  # [V]
    key,  # [2]
    highest,  # [S] of own
    cutoff,
    reach,
    beta,
    temperature,
    vocab,
    tiles,
    CONTRAST: tl.constexpr,
    SAMPLES: tl.constexpr,
    TILE: tl.constexpr,
):
    """The best token of the valid set, or a sample of the tokens whose logit reaches `reach`.

    Returns: the token, the size of the valid set.
    """
    best, pick, count = _scan(
        own, base, key, highest, cutoff, beta, temperature, 0.0, vocab, tiles,
        CONTRAST=CONTRAST, SAMPLE=False, TILE=TILE,
    )  # fmt: skip
    if SAMPLES:
        if temperature > 0:
            _best, pick, _count = _scan(
                own, base, key, highest, reach, beta, temperature, best, vocab, tiles,
                CONTRAST=CONTRAST, SAMPLE=True, TILE=TILE,
            )  # fmt: skip
    return pick, count


@triton.jit
def cold_pick(
    expert,  # [R, V]
    base,  # [R, V]
    mode,  # [R] int32
    alpha,  # [R] float32
    beta,  # [R] float32
    temperature,  # [R] float32
    key,  # [R, 2] int32; not read without SAMPLES
    highest,  # [2, R, S] float32
    total,  # [2, R, S] float32
    token,  # [R] int64
    score,  # [R] float32
    expert_log_prob,  # [R] float32
    base_log_prob,  # [R] float32
    valid_count,  # [R] int32
    expert_token,  # [R] int64
    rows,
    vocab,
    tiles,
    SAMPLES: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
):
    """Picks each row's token, from the statistics that `cold_tile_stats` found.

    TILES is a power of two, at least S.

    Mutates: token, score, expert_log_prob, base_log_prob, valid_count, expert_token.
    """
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        tl.store(token + row, tl.full([], -1, tl.int64))
        tl.store(expert_token + row, tl.full([], -1, tl.int64))
        tl.store(expert_log_prob + row, float("nan"))
        tl.store(base_log_prob + row, float("nan"))
        tl.store(score + row, float("nan"))
        tl.store(valid_count + row, 0)

        offset = tl.cast(row, tl.int64) * vocab
        e_row = expert + offset
        a_row = base + offset
        k_row = key + 2 * row
        e_highest = highest + row * tiles
        a_highest = highest + (rows + row) * tiles
        if tl.load(mode + row) != BASE:
            _pick_with_expert(
                e_row, a_row, k_row, tl.load(mode + row), tl.load(alpha + row),
                tl.load(beta + row), tl.load(temperature + row),
                e_highest, a_highest, total + row * tiles, total + (rows + row) * tiles,
                token + row, score + row, expert_log_prob + row, base_log_prob + row,
                valid_count + row, expert_token + row, vocab, tiles,
                SAMPLES=SAMPLES, TILE=TILE, TILES=TILES,
            )  # fmt: skip
        else:
            _pick_of_base(
                a_row, k_row, tl.load(temperature + row), a_highest,
                total + (rows + row) * tiles, token + row, score + row,
                base_log_prob + row, valid_count + row, vocab, tiles,
                SAMPLES=SAMPLES, TILE=TILE, TILES=TILES,
            )  # fmt: skip


@triton.jit
def _pick_of_base(
    base, key, temperature, highest, total,
    token, score, base_log_prob, valid_count, vocab, tiles,
    SAMPLES: tl.constexpr, TILE: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    top = _row_maximum(highest, tiles, TILES)
    if (top > NEVER) & (top < INFINITY):
        pick, _count = _choose(
            base, base, key, highest, top, top - REACH * temperature, 0.0, temperature,
            vocab, tiles,
            CONTRAST=False, SAMPLES=SAMPLES, TILE=TILE,
        )  # fmt: skip
        a = tl.load(base + pick).to(tl.float32)
        tl.store(token, pick.to(tl.int64))
        tl.store(score, a)
        tl.store(base_log_prob, a - _log_sum_exp(highest, total, top, tiles, TILES))
        tl.store(valid_count, vocab)


@triton.jit
def _pick_with_expert(
    expert, base, key, mode, alpha, beta, temperature,
    e_highest, a_highest, e_total, a_total,
    token, score, expert_log_prob, base_log_prob, valid_count, expert_token, vocab, tiles,
    SAMPLES: tl.constexpr, TILE: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    e_top = _row_maximum(e_highest, tiles, TILES)
    a_top = 0.0
    if mode == COLD:
        a_top = _row_maximum(a_highest, tiles, TILES)
    if (e_top > NEVER) & (e_top < INFINITY) & (a_top > NEVER) & (a_top < INFINITY):
        cutoff = e_top + tl.log(alpha)
        e_best, _ties = _choose(
            expert, base, key, e_highest, e_top, e_top, 0.0, 0.0, vocab, tiles,
            CONTRAST=False, SAMPLES=False, TILE=TILE,
        )  # fmt: skip
        if mode == COLD:
            pick, count = _choose(
                expert, base, key, e_highest, cutoff, cutoff, beta, temperature, vocab, tiles,
                CONTRAST=True, SAMPLES=SAMPLES, TILE=TILE,
            )  # fmt: skip
        else:
            pick, count = _choose(
                expert, base, key, e_highest, cutoff, e_top - REACH * temperature, 0.0,
                temperature, vocab, tiles,
                CONTRAST=False, SAMPLES=SAMPLES, TILE=TILE,
            )  # fmt: skip
        e = tl.load(expert + pick).to(tl.float32)
        tl.store(score, e)
        if mode == COLD:
            a = tl.load(base + pick).to(tl.float32)
            tl.store(score, tl.where(beta == 0.0, e, e + beta * (e - a)))
            a_lse = _log_sum_exp(a_highest, a_total, a_top, tiles, TILES)
            tl.store(base_log_prob, a - a_lse)
        e_lse = _log_sum_exp(e_highest, e_total, e_top, tiles, TILES)
        tl.store(token, pick.to(tl.int64))
        tl.store(expert_log_prob, e - e_lse)
        tl.store(valid_count, count.to(tl.int32))
        tl.store(expert_token, e_best.to(tl.int64))
