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
    widths: list[int],
    inputs: int,
    ranks: list[tuple[int, ...]],
) -> None:
    """Segments with adapters of several ranks; tokens in runs, alone and without adapter, in
    several strengths."""
    if implementation.is_slow and (tokens not in (2, 9) or dtype != torch.float32):
        return
    on, ops = implementation.device, implementation.ops
    outputs = sum(widths)
    x = random(tokens, inputs, seed=1, dtype=dtype)
    weight = random(outputs, inputs, seed=2, dtype=dtype) / inputs**0.5
    bias = random(outputs, seed=3, dtype=dtype)
    adapters = len(ranks[0]) if ranks else 1
    generator = torch.Generator().manual_seed(tokens)
    index = torch.randint(-1, adapters, (tokens,), generator=generator)
    strength = strengths(tokens, generator)
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
            rows = index == adapter
            delta = x.double() @ a[-1][adapter].double().T @ b[-1][adapter].double()
            columns[rows] += scale[segment, adapter] * strength[rows, None] * delta[rows]
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
    check(found, expected, strength[:, None].clamp(min=1))


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
    index = (torch.arange(tokens, device=on) % 3 - 1).int()

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
            strength=torch.full((tokens,), strength, device=on),
            widths=widths,
        )

    assert torch.equal(project(scale, factor), project(scale * factor, 1.0))


def test_native_rows_do_not_depend_on_the_others() -> None:
    """A token's projection has the same bits alone and in any batch."""
    ops = load_ops("native", torch.device("cpu"))
    x = random(37, 64, seed=1, dtype=torch.float32)
    weight = ops.packing.pack(random(96, 64, seed=2, dtype=torch.float32))

    def project(rows: Tensor) -> Tensor:
        index = torch.full((len(rows),), -1, dtype=torch.int32)
        adapters: dict[str, Any] = {"a": [], "b": [], "scale": None, "rank": None}
        strength = torch.ones(len(rows))
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


SPANS = [
    [[2, 0, 7], [0, 0, 1], [3, 0, 20]],  # slot, tokens before, new tokens
    [[0, 1, 30], [2, 7, 1], [3, 20, 5], [1, 0, 48]],
    [[3, 25, 1], [2, 8, 1], [0, 31, 2]],
    [[1, 0, 3]],  # a slot used again
]


@BY_DTYPE
@pytest.mark.parametrize(
    ("groups", "width"), [((3, 3), 64), ((1, 5), 32), ((2, 1), 16), ((1, 9), 48)]
)
def test_attend(
    implementation: Implementation, dtype: torch.dtype, groups: tuple[int, int], width: int
) -> None:
    """Prompts, chunks and single tokens of several sequences, step after step."""
    on = implementation.device
    (heads, group), context = groups, 48
    angles = torch.rand(context, width // 2) * 6
    tables = angles.cos().to(on), angles.sin().to(on)
    # What a slot held before must not matter, whatever it was.
    held = torch.full((2, 4, heads, context, width), math.nan, dtype=dtype, device=on)
    stored = held[0], held[1]
    seen: dict[int, Tensor] = {}
    for step, spans in enumerate(SPANS):
        tokens = sum(length for _, _, length in spans)
        qkv = random(tokens, (group + 2) * heads * width, seed=step, dtype=dtype)
        found = implementation.ops.attend(
            qkv.to(on), *tables, *stored, torch.tensor(spans, dtype=torch.int32), width**-0.5
        )
        parts = qkv.split([length for _, _, length in spans])
        expected = []
        for (slot, start, _), part in zip(spans, parts, strict=True):
            before = seen[slot][:start] if start else part[:0]
            seen[slot] = torch.cat((before, part))
            expected.append(attended(seen[slot], heads, group, width, angles)[start:])
        check(found, torch.cat(expected))


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
    ("spans", "complaint"),
    [([[4, 0, 1]], "row 0 is beyond"), ([[0, 48, 1]], "beyond"), ([[0, 0, 2]], "beyond")],
)
def test_native_attend_checks_its_rows(spans: list[list[int]], complaint: str) -> None:
    ops = load_ops("native", torch.device("cpu"))
    tables = torch.ones(48, 8), torch.ones(48, 8)
    stored = torch.zeros(4, 1, 48, 16), torch.zeros(4, 1, 48, 16)
    rows = torch.tensor(spans, dtype=torch.int32)
    with pytest.raises(RuntimeError, match=complaint):
        ops.attend(torch.zeros(1, 48), *tables, *stored, rows, 1.0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"widths": [80]}, "weight: must be"),
        ({"widths": [40, 56]}, "multiples of 16"),
        ({"index": torch.tensor([3], dtype=torch.int32)}, "index: must be below 1"),
        ({"strength": torch.ones(2)}, "strength: shape must be"),
        ({"strength": torch.ones(1).bfloat16()}, "strength: dtype must be"),
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
        "index": torch.zeros(1, dtype=torch.int32),
        "strength": torch.ones(1),
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
        "index": torch.full((3,), -1, dtype=torch.int32, device=on),
        "strength": torch.ones(3, device=on),
    }
    x = torch.ones(3, 16, device=on)
    check_op(ops.project.default, x, packed, None, **adapters, **tokens, widths=[32])
    check_op(ops.add_rms_norm.default, x, None, x[0].clone(), 1e-5)
    check_op(ops.silu_multiply.default, x)
    stored = [torch.zeros(2, 1, 16, 16, device=on) for _ in "kv"]
    tables = torch.ones(16, 8, device=on), torch.ones(16, 8, device=on)
    rows = torch.tensor([[1, 0, 3]], dtype=torch.int32)
    check_op(ops.attend.default, torch.ones(3, 64, device=on), *tables, *stored, rows, 0.25)
