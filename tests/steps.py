"""Steps for tests, by name: what is not said is the plainest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from cold_backend.contract import (
    BIAS,
    CHOICE,
    COPY,
    COUNT,
    MAX_ADAPTERS,
    NONE,
    ROW,
    Int32Array,
    Reader,
    Step,
    Table,
    blocks_for,
    pack_changes,
    table,
)
from cold_backend.models.language_model import LanguageModel
from cold_kernels import Mode

BOTH = (Reader.EXPERT, Reader.BASE)
SLOT_TOKENS = 96
_ROW: dict[str, Any] = dict.fromkeys(ROW.names or (), 0) | {
    "adapters": [NONE] * MAX_ADAPTERS,
    "strengths": [1.0] * MAX_ADAPTERS,
    "emits": 1,
}
_CHOICE: dict[str, Any] = dict.fromkeys(CHOICE.names or (), 0) | {
    "base": 1,
    "mode": Mode.EXPERT,
    "forced": NONE,
    "alpha": 0.1,
    "beta": 0.5,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
}


def rows(*columns: Mapping[str, float], readers: Sequence[Reader] = (Reader.EXPERT,)) -> Table:
    """Rows that each of the readers has; the base's have no adapter.

    A column `slot` is the row's blocks: see `slot_blocks`. `adapter` and `strength` are those of a
    row that has one.
    """
    return table(ROW, [_row(**one) for one in _each(columns, readers)])


def _row(
    *, slot: int = 0, adapter: int = NONE, strength: float = 1.0, **columns: Any
) -> dict[str, Any]:
    if adapter != NONE:
        columns |= several((adapter, strength))
    return columns


def several(*used: tuple[int, float]) -> dict[str, Any]:
    """The columns of a row with these adapter indices and strengths."""
    free = MAX_ADAPTERS - len(used)
    return {
        "adapters": [index for index, _ in used] + [NONE] * free,
        "strengths": [strength for _, strength in used] + [1.0] * free,
    }


def blocks(
    *columns: Mapping[str, float],
    readers: Sequence[Reader] = (Reader.EXPERT,),
    slot_tokens: int = SLOT_TOKENS,
) -> Int32Array:
    """The blocks of the same rows."""
    tables = []
    for one in _each(columns, readers):
        count = blocks_for(int(one["start"] + one["length"]))
        slot, reader = int(one.get("slot", 0)), Reader(int(one["reader"]))
        tables.append(slot_blocks(slot, reader, slot_tokens)[:count])
    return np.concatenate(tables)


def slot_blocks(slot: int, reader: Reader, slot_tokens: int = SLOT_TOKENS) -> Int32Array:
    """A run of blocks that a reader has by a number, for so many tokens."""
    count = blocks_for(slot_tokens)
    return np.arange(count, dtype=np.int32) + (slot * len(BOTH) + reader) * count


def pool_of(slots: int) -> int:
    """Blocks that all readers' slots below a number have."""
    return slots * len(BOTH) * blocks_for(SLOT_TOKENS)


def _each(columns: Sequence[Mapping[str, Any]], readers: Sequence[Reader]) -> list[dict[str, Any]]:
    nothing = {"adapter": NONE, "adapters": _ROW["adapters"]}
    return [
        {**_ROW, "reader": reader, **one, **(nothing if reader is Reader.BASE else {})}
        for reader in readers
        for one in columns
    ]


def forward(
    model: LanguageModel,
    ids: Sequence[int],
    *columns: Mapping[str, float],
    readers: Sequence[Reader] = (Reader.EXPERT,),
    slot_tokens: int = SLOT_TOKENS,
) -> list[Tensor]:
    """Feeds the rows their tokens, to each of the readers, whose logits are returned."""
    fed = rows(*columns, readers=readers)
    tokens = np.array([*ids] * len(readers), np.int64)
    of_rows = blocks(*columns, readers=readers, slot_tokens=slot_tokens)
    logits = model.forward(tokens, fed, of_rows)
    return [*logits.split(int(fed["emits"].sum()) // len(readers))]


def choice_step(
    *, bans: Sequence[int] = (), counts: Mapping[int, int] | None = None, **columns: Any
) -> Step:
    """A step of one choice, from the logits of an expert's row and a base's, as far as it has
    both."""
    return step_of(
        [columns],
        biases=[(0, token, -np.inf) for token in bans],
        counts=[(0, token, times) for token, times in (counts or {}).items()],
        readers=[r for r in BOTH if (_CHOICE | columns)[r.name.lower()] != NONE],
    )


def step_of(
    choices: Sequence[Mapping[str, Any]],
    *,
    biases: Sequence[tuple[int, int, float]] = (),
    counts: Sequence[tuple[int, int, int]] = (),
    readers: Sequence[Reader] = BOTH,
) -> Step:
    """A step of choices, all from the logits of the same row of each of the readers.

    Args:
        choices: the columns of each.
        biases: of BIAS.
        counts: of COUNT.
        readers: that have a row.
    """
    return Step(
        tokens=np.zeros(len(readers), np.int64),
        rows=rows({"length": 1}, readers=readers),
        blocks=blocks({"length": 1}, readers=readers),
        choices=table(CHOICE, [{**_CHOICE, **columns} for columns in choices]),
        biases=np.array([*biases], BIAS),
        counts=np.array([*counts], COUNT),
        copies=table(COPY, []),
        adapters=pack_changes([]),
    )
