"""How an implementation lays out the matrices that `project` reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

_LANES = 16  # kernels/csrc/linear.h
_BLOCK_BYTES = 1 << 17


@dataclass(frozen=True, slots=True)
class Packing:
    """A layout.

    Attributes:
        pack: lays out a matrix [M, N], N even. Mutates: the matrix, whose memory it may keep.
        take_rows: rows [T, N] of a packed matrix, by their numbers [T].
        pack_adapters: lays out adapters' matrices a [L, K, N] and b [L, K, M].
    """

    pack: Callable[[Tensor], Tensor]
    take_rows: Callable[[Tensor, Tensor], Tensor]
    pack_adapters: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _pack_panels(matrix: Tensor) -> Tensor:
    """[M, N] -> [M / 16, N / 2, 16, 2], or [M / 16, N / 2, 2, 16] in float32."""
    rows, columns = matrix.shape
    padded = functional.pad(matrix, (0, 0, 0, -rows % _LANES)) if rows % _LANES else matrix
    padded = padded.contiguous()
    pairs = padded.view(-1, _LANES, columns // 2, 2)
    order = _order(matrix)
    packed = padded.view([pairs.shape[axis] for axis in order])
    # A panel takes the place of its own rows, so that no second matrix is needed. Not too many at
    # once: large temporaries, freed, leave holes in the heap.
    at_once = max(1, _BLOCK_BYTES // (_LANES * columns * matrix.element_size()))
    for old, new in zip(pairs.split(at_once), packed.split(at_once), strict=True):
        new.copy_(old.permute(order).contiguous())
    return packed


def _take_panel_rows(packed: Tensor, rows: Tensor) -> Tensor:
    order = _order(packed)
    pairs = packed.permute([order.index(axis) for axis in range(4)])  # [M / 16, 16, N / 2, 2]
    return pairs[rows // _LANES, rows % _LANES].flatten(1)


def _order(matrix: Tensor) -> tuple[int, ...]:
    return (0, 2, 1, 3) if matrix.element_size() == 2 else (0, 2, 3, 1)


def _pack_adapter_panels(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks and outputs are padded with zeros: each adapter begins with a panel of its own."""
    ranks = -a.shape[1] % _LANES
    a = functional.pad(a, (0, 0, 0, ranks))
    b = functional.pad(b, (0, -b.shape[2] % _LANES, 0, ranks))
    return _pack_panels(a.flatten(0, 1)), _pack_panels(b.mT.flatten(0, 1))


def _plain(matrix: Tensor) -> Tensor:
    return matrix.contiguous()


PANELS = Packing(_pack_panels, _take_panel_rows, _pack_adapter_panels)
PLAIN = Packing(
    pack=_plain,
    take_rows=lambda matrix, rows: matrix[rows],
    pack_adapters=lambda a, b: (_plain(a), _plain(b)),
)
