"""A decoder layer's ops against their definitions in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cold_kernels import load_ops
from tests.kernels.conftest import Implementation
from tests.kernels.inputs import DTYPES, strengths

BY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
# Relative to what is expected, and to the size of what is summed: a few roundings on the way.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-6, torch.float16: 2**-9}


def check(found: Tensor, expected: Tensor, size: Tensor | float = 1.0) -> None:
    tolerance = TOLERANCE[found.dtype]
    error = (found.cpu().double() - expected).abs()
    assert (error <= tolerance * (size + expected.abs())).all(), error.max()


def random(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@BY_DTYPE
@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 9, 17, 40, 300])
@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize(
    ("widths", "inputs", "ranks"),
    [
        ([64, 32, 32], 48, [(4, 16, 0), (1, 20, 3), (2, 2, 2)]),
        ([50], 32, [(8,)]),
        ([160, 160], 96, []),
    ],
    ids=str,
)
def test_project(
    implementation: Implementation,
    dtype: torch.dtype,
    tokens: int,
    each: int,
    widths: list[int],
    inputs: int,
    ranks: list[tuple[int, ...]],
) -> None:
    """Segments with adapters of several ranks; tokens in runs, alone, without adapter and with
    several, in all strengths."""
    if implementation.is_slow and (tokens not in (2, 9) or dtype != torch.float32):
        return
    if each > 1 and tokens not in (1, 9, 300):
        return
    on, ops = implementation.device, implementation.ops
    outputs = sum(widths)
    x = random(tokens, inputs, seed=1, dtype=dtype)
    weight = random(outputs, inputs, seed=2, dtype=dtype) / inputs**0.5
    bias = random(outputs, seed=3, dtype=dtype)
    adapters = len(ranks[0]) if ranks else 1
    generator = torch.Generator().manual_seed(tokens)
    index = torch.randint(-1, adapters, (each, tokens), generator=generator)
    strength = strengths((each, tokens), generator)
    index = index.sort().values if tokens > 20 else index
    scale = torch.rand(len(widths), adapters) + 0.5
    a, b = [], []
    expected = x.double() @ weight.double().T + bias.double()
    for segment, (columns, of_segment) in enumerate(
        zip(expected.split(widths, 1), ranks, strict=False)
    ):
        most = max(of_segment)
        a.append(random(adapters, most, inputs, seed=4 + segment, dtype=dtype) / inputs**0.5)
        b.append(random(adapters, most, columns.shape[1], seed=9 + segment, dtype=dtype) / 4)
        for adapter, rank in enumerate(of_segment):
            a[-1][adapter, rank:], b[-1][adapter, rank:] = 0, 0
            of_tokens = (strength * (index == adapter)).sum(0)  # a token may have it twice
            delta = x.double() @ a[-1][adapter].double().T @ b[-1][adapter].double()
            columns += scale[segment, adapter] * of_tokens[:, None] * delta
    packed = [ops.packing.pack_adapters(*pair) for pair in zip(a, b, strict=True)]
    found = ops.project(
        x.to(on),
        ops.packing.pack(weight).to(on),
        bias.to(on),
        a=[of_a.to(on) for of_a, _ in packed],
        b=[of_b.to(on) for _, of_b in packed],
        scale=scale.to(on) if ranks else None,
        rank=torch.tensor(ranks, dtype=torch.int32, device=on) if ranks else None,
        index=index.int().to(on),
        strength=strength.to(on),
        widths=widths,
    )
    check(found, expected, strength.sum(0)[:, None].clamp(min=1))


@BY_DTYPE
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5, 8.0])
def test_a_strength_is_a_factor_of_the_scale(
    implementation: Implementation, dtype: torch.dtype, factor: float
) -> None:
    """To the bit: a strength of 1 leaves what an adapter adds as it is."""
    on, packing = implementation.device, implementation.ops.packing
    tokens, widths = 9, [32, 16]
    x = random(tokens, 48, seed=1, dtype=dtype).to(on)
    weight = packing.pack(random(48, 48, seed=2, dtype=dtype)).to(on)
    packed = [
        packing.pack_adapters(
            random(2, 5, 48, seed=3, dtype=dtype), random(2, 5, width, seed=4, dtype=dtype)
        )
        for width in widths
    ]
    scale = random(2, 2, seed=5, dtype=torch.float32).to(on)
    rank = torch.full((2, 2), 5, dtype=torch.int32, device=on)
    index = (torch.arange(tokens, device=on) % 3 - 1).int()[None]

    def project(scale: Tensor, strength: float) -> Tensor:
        return implementation.ops.project(
            x,
            weight,
            None,
            a=[a.to(on) for a, _ in packed],
            b=[b.to(on) for _, b in packed],
            scale=scale,
            rank=rank,
            index=index,
            strength=torch.full((1, tokens), strength, device=on),
            widths=widths,
        )

    assert torch.equal(project(scale, factor), project(scale * factor, 1.0))


def test_native_rows_do_not_depend_on_the_others() -> None:
    """A token's projection has the same bits alone and in any batch."""
    ops = load_ops("native", torch.device("cpu"))
    x = random(37, 64, seed=1, dtype=torch.float32)
    weight = ops.packing.pack(random(96, 64, seed=2, dtype=torch.float32))

    def project(rows: Tensor) -> Tensor:
        index = torch.full((1, len(rows)), -1, dtype=torch.int32)
        adapters: dict[str, Any] = {"a": [], "b": [], "scale": None, "rank": None}
        strength = torch.ones((1, len(rows)))
        return ops.project(
            rows, weight, None, **adapters, index=index, strength=strength, widths=[96]
        )

    together = project(x)
    for row in range(len(x)):
        assert torch.equal(project(x[row : row + 1])[0], together[row])


@pytest.mark.parametrize("rows", [1, 16, 50])
@BY_DTYPE
def test_rows_of_a_packed_matrix(
    implementation: Implementation, dtype: torch.dtype, rows: int
) -> None:
    matrix = random(rows, 24, seed=1, dtype=dtype)
    wanted = torch.tensor([0, rows - 1, rows // 2, 0])
    packing = implementation.ops.packing
    assert torch.equal(packing.take_rows(packing.pack(matrix.clone()), wanted), matrix[wanted])


@BY_DTYPE
@pytest.mark.parametrize("width", [7, 32, 100, 576])
@pytest.mark.parametrize("adds", [False, True])
def test_add_rms_norm(
    implementation: Implementation, dtype: torch.dtype, width: int, adds: bool
) -> None:
    on = implementation.device
    hidden, delta = (random(5, width, seed=seed, dtype=dtype) for seed in (1, 2))
    weight = random(width, seed=3, dtype=dtype)
    total = hidden + delta if adds else hidden.clone()
    stream = hidden.to(on, copy=True)
    found = implementation.ops.add_rms_norm(
        stream, delta.to(on) if adds else None, weight.to(on), 1e-5
    )
    assert torch.equal(stream.cpu(), total)
    wide = total.double()
    check(found, wide / (wide.square().mean(1, keepdim=True) + 1e-5).sqrt() * weight.double())


@BY_DTYPE
@pytest.mark.parametrize("width", [5, 32, 100])
def test_silu_multiply(implementation: Implementation, dtype: torch.dtype, width: int) -> None:
    gate_up = random(6, 2 * width, seed=1, dtype=dtype) * 4
    gate_up[0, :4] = torch.tensor([-1e4, 1e4, 90.0, -90.0])
    gate, up = gate_up.double().chunk(2, dim=1)
    found = implementation.ops.silu_multiply(gate_up.to(implementation.device))
    check(found, gate / (1 + (-gate).exp()) * up)


def test_broken_activations_stay_broken(implementation: Implementation) -> None:
    gate_up = torch.full((1, 64), math.nan, device=implementation.device)
    assert implementation.ops.silu_multiply(gate_up).isnan().all()


BLOCK = 16
SPANS = [
    [[2, 0, 7], [0, 0, 1], [3, 0, 20]],  # context, tokens before, new tokens
    [[0, 1, 30], [2, 7, 1], [3, 20, 5], [1, 0, 48]],
    [[3, 25, 1], [2, 8, 1], [0, 31, 2]],
    [[1, 0, 3]],  # blocks used again
]
GROUPS = pytest.mark.parametrize(
    ("groups", "width"), [((3, 3), 64), ((1, 5), 32), ((2, 1), 16), ((1, 9), 48)]
)
# Of contexts of up to three blocks each: in order, one's among the others', anywhere.
TABLES = {
    "in order": [[3 * context + block for block in range(3)] for context in range(4)],
    "in turns": [[4 * block + context for block in range(3)] for context in range(4)],
    "anywhere": [[13, 2, 7], [9, 10, 0], [5, 4, 3], [11, 6, 12]],
}


class Pool:
    """Keys and values, and the contexts that have blocks of them."""

    def __init__(
        self,
        implementation: Implementation,
        dtype: torch.dtype,
        groups: tuple[int, int],
        width: int,
        tables: list[list[int]],
        positions: int = 48,
    ) -> None:
        self.heads, self.group = groups
        self.width = width
        self.tables = tables
        self.angles = random(positions, width // 2, seed=0, dtype=torch.float32) * 6
        self._attend, self._on = implementation.ops.attend, implementation.device
        # What a block held before must not matter, whatever it was.
        count = 1 + max(map(max, tables))
        shape = (2, self.heads, count, BLOCK, width)
        self.stored = torch.full(shape, math.nan, dtype=dtype, device=self._on)

    def tokens(self, count: int, seed: int) -> Tensor:
        """New ones, [count, (heads * group + 2 * heads) * width]."""
        columns = (self.group + 2) * self.heads * self.width
        return random(count, columns, seed=seed, dtype=self.stored.dtype)

    def attend(self, spans: list[list[int]], qkv: Tensor) -> Tensor:
        """Feeds tokens to contexts."""
        rows, blocks = [], list[int]()
        for context, start, length in spans:
            rows.append([len(blocks), start, length])
            blocks += self.tables[context][: -(-(start + length) // BLOCK)]
        on = self._on
        turns = self.angles.cos().to(on), self.angles.sin().to(on)
        keys, values = self.stored
        starts, numbers = (torch.tensor(part, dtype=torch.int32) for part in (rows, blocks))
        scale = self.width**-0.5
        return self._attend(qkv.to(on), *turns, keys, values, starts, numbers, scale).cpu()


@BY_DTYPE
@GROUPS
@pytest.mark.parametrize("tables", TABLES.values(), ids=TABLES)
def test_attend(
    implementation: Implementation,
    dtype: torch.dtype,
    groups: tuple[int, int],
    width: int,
    tables: list[list[int]],
) -> None:
    """Prompts, chunks and single tokens of several sequences, step after step."""
    pool = Pool(implementation, dtype, groups, width, tables)
    seen: dict[int, Tensor] = {}
    for step, spans in enumerate(SPANS):
        qkv = pool.tokens(sum(length for _, _, length in spans), step)
        found = pool.attend(spans, qkv)
        parts = qkv.split([length for _, _, length in spans])
        expected = []
        for (context, start, _), part in zip(spans, parts, strict=True):
            before = seen[context][:start] if start else part[:0]
            seen[context] = torch.cat((before, part))
            expected.append(attended(seen[context], *groups, width, pool.angles)[start:])
        check(found, torch.cat(expected))


@BY_DTYPE
@GROUPS
@pytest.mark.parametrize("length", [15, 16, 17, 47, 48, 49, 65, 144])
def test_where_blocks_are_changes_no_bit(
    implementation: Implementation,
    dtype: torch.dtype,
    groups: tuple[int, int],
    width: int,
    length: int,
) -> None:
    """A prompt, a chunk and a token: in a run of blocks, and in blocks that fall and skip."""
    count = -(-(length + 6) // BLOCK)
    tables = [[*range(count)], [*range(3 * count, count, -2)]]
    pool = Pool(implementation, dtype, groups, width, tables, length + 6)
    for start, new in ((0, length), (length, 5), (length + 5, 1)):
        qkv = pool.tokens(new, start)
        in_run, elsewhere = (pool.attend([[context, start, new]], qkv) for context in (0, 1))
        assert torch.equal(in_run, elsewhere)


@BY_DTYPE
@GROUPS
@pytest.mark.parametrize("shared", [16, 32, 96])
def test_rows_share_full_blocks(
    implementation: Implementation,
    dtype: torch.dtype,
    groups: tuple[int, int],
    width: int,
    shared: int,
) -> None:
    """They go on as those that have these tokens in blocks of their own, and leave them as they
    were."""
    count = shared // BLOCK
    same = [*range(count)]
    own = [*range(count + 4, 2 * count + 4)]
    tables = [[*same, count], [*same, count + 2], [*own, 2 * count + 4]]
    pool = Pool(implementation, dtype, groups, width, tables, shared + 8)
    prompt = pool.tokens(shared, 1)
    pool.attend([[0, 0, shared], [2, 0, shared]], torch.cat((prompt, prompt)))
    before = pool.stored[:, :, same].clone()
    for start, new in ((shared, 7), (shared + 7, 1)):
        first, second = pool.tokens(new, 2), pool.tokens(new, 3)
        spans = [[context, start, new] for context in (0, 1, 2)]
        found = pool.attend(spans, torch.cat((first, second, second))).chunk(3)
        assert torch.equal(found[1], found[2])
        assert not torch.equal(found[0], found[1])
    assert torch.equal(pool.stored[:, :, same], before)


@BY_DTYPE
def test_a_block_is_copied_as_a_whole(implementation: Implementation, dtype: torch.dtype) -> None:
    """Whatever its order within is: keys and values of one number to those of another."""
    tables = [[4, 1], [2, 3]]
    pool = Pool(implementation, dtype, (2, 3), 32, tables)
    pool.attend([[0, 0, 23], [1, 0, 32]], pool.tokens(55, 1))
    pool.stored[:, :, tables[1]] = pool.stored[:, :, tables[0]]
    qkv = pool.tokens(5, 2)
    assert torch.equal(*(pool.attend([[context, 23, 5]], qkv) for context in (0, 1)))


def attended(qkv: Tensor, heads: int, group: int, width: int, angles: Tensor) -> Tensor:
    """Attention of one whole sequence, token by token: [T, heads * group * width]."""
    turns = torch.polar(torch.ones_like(angles), angles).to(torch.complex128)[: len(qkv), None]

    def turned(x: Tensor) -> Tensor:
        first, second = x.double().view(len(qkv), -1, width).chunk(2, dim=2)
        z = torch.complex(first, second) * turns
        return torch.cat((z.real, z.imag), dim=2)

    sizes = [heads * group * width, heads * width, heads * width]
    query, key, value = qkv.split(sizes, dim=1)
    q, k = turned(query), turned(key).repeat_interleave(group, dim=1)
    v = value.double().view(len(qkv), heads, width).repeat_interleave(group, dim=1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * width**-0.5
    later = torch.ones(len(qkv), len(qkv), dtype=torch.bool).triu(1)
    shares = scores.masked_fill(later, -torch.inf).softmax(2)
    return torch.einsum("hqk,khd->qhd", shares, v).flatten(1)


@pytest.mark.parametrize(
    ("row", "blocks", "complaint"),
    [
        ([0, 0, 2], [0], "row 0 is beyond the blocks, the angles or the tokens"),
        ([0, 40, 1], [0, 1, 2], "beyond"),  # the angles
        ([0, 16, 1], [0], "beyond"),
        ([1, 0, 1], [0], "beyond"),
        ([-1, 0, 1], [0], "beyond"),
        ([0, -1, 1], [0], "beyond"),
        ([0, 0, -1], [0], "beyond"),
        ([0, 0, 1], [4], "blocks: must be at least 0 and below 4"),
        ([0, 0, 1], [-1], "at least 0"),
    ],
)
def test_native_attend_checks_its_rows(row: list[int], blocks: list[int], complaint: str) -> None:
    with pytest.raises(RuntimeError, match=complaint):
        attend_natively(
            rows=torch.tensor([row], dtype=torch.int32),
            blocks=torch.tensor(blocks, dtype=torch.int32),
        )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"keys": torch.zeros(1, 4, 32, 16)}, "keys: shape must be"),
        ({"keys": torch.zeros(1, 4, 16, 16).bfloat16()}, "keys: dtype must be"),
        ({"values": torch.zeros(1, 3, 16, 16)}, "values: shape must be"),
        ({"blocks": torch.zeros(1, dtype=torch.int64)}, "blocks: dtype must be"),
        ({"blocks": torch.zeros(1, 1, dtype=torch.int32)}, "blocks: shape must be"),
        ({"sine": torch.zeros(39, 8)}, "sine: shape must be"),
        ({"qkv": torch.zeros(1, 50)}, "fit one another"),
    ],
)
def test_native_attend_checks_its_inputs(change: dict[str, Tensor], complaint: str) -> None:
    with pytest.raises(RuntimeError, match=complaint):
        attend_natively(**change)


def attend_natively(**change: Tensor) -> Tensor:
    """A token of one head over four blocks, but for what is given."""
    given = {
        "qkv": torch.zeros(1, 48),
        "cosine": torch.ones(40, 8),
        "sine": torch.ones(40, 8),
        "keys": torch.zeros(1, 4, 16, 16),
        "values": torch.zeros(1, 4, 16, 16),
        "rows": torch.tensor([[0, 0, 1]], dtype=torch.int32),
        "blocks": torch.zeros(1, dtype=torch.int32),
    }
    return load_ops("native", torch.device("cpu")).attend(**(given | change), scale=1.0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"widths": [80]}, "weight: must be"),
        ({"widths": [40, 56]}, "multiples of 16"),
        ({"index": torch.tensor([[3]], dtype=torch.int32)}, "index: must be below 1"),
        ({"index": torch.zeros(1, dtype=torch.int32)}, "index: shape must be"),
        ({"strength": torch.ones(2, 1)}, "strength: shape must be"),
        ({"strength": torch.ones(1, 1).bfloat16()}, "strength: dtype must be"),
        ({"scale": torch.ones(1, 2)}, "must be"),
    ],
)
def test_native_project_checks_its_inputs(change: dict[str, Any], complaint: str) -> None:
    ops = load_ops("native", torch.device("cpu"))
    a, b = ops.packing.pack_adapters(torch.ones(1, 4, 32), torch.ones(1, 4, 96))
    given: dict[str, Any] = {
        "a": [a],
        "b": [b],
        "scale": torch.ones(1, 1),
        "rank": torch.full((1, 1), 4, dtype=torch.int32),
        "index": torch.zeros((1, 1), dtype=torch.int32),
        "strength": torch.ones((1, 1)),
        "widths": [96],
    }
    with pytest.raises(RuntimeError, match=complaint):
        ops.project(torch.ones(1, 32), ops.packing.pack(torch.ones(96, 32)), None, **given | change)


def test_registration(implementation: Implementation) -> None:
    on = implementation.device
    ops = getattr(torch.ops, f"cold_{implementation.ops.name}")
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")

    def check_op(op: object, *arguments: object, **named: object) -> None:
        torch.library.opcheck(op, arguments, named, test_utils=checks)  # type: ignore[arg-type]

    packed = implementation.ops.packing.pack(torch.ones(32, 16)).to(on)
    adapters: dict[str, Any] = {"a": [], "b": [], "scale": None, "rank": None}
    tokens = {
        "index": torch.full((1, 3), -1, dtype=torch.int32, device=on),
        "strength": torch.ones((1, 3), device=on),
    }
    x = torch.ones(3, 16, device=on)
    check_op(ops.project.default, x, packed, None, **adapters, **tokens, widths=[32])
    check_op(ops.add_rms_norm.default, x, None, x[0].clone(), 1e-5)
    check_op(ops.silu_multiply.default, x)
    stored = [torch.zeros(1, 2, 16, 16, device=on) for _ in "kv"]
    tables = torch.ones(16, 8, device=on), torch.ones(16, 8, device=on)
    where = (torch.tensor(part, dtype=torch.int32) for part in ([[0, 0, 3]], [1]))
    check_op(ops.attend.default, torch.ones(3, 64, device=on), *tables, *stored, *where, 0.25)
