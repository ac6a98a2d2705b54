"""Steps for tests, by name: what is not said is the plainest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from cold_backend.contract import (
    BAN,
    CHOICE,
    COPY,
    COUNT,
    NONE,
    ROW,
    Reader,
    Step,
    Table,
    pack_changes,
    table,
)
from cold_backend.models.language_model import LanguageModel
from cold_kernels import Mode

BOTH = (Reader.EXPERT, Reader.BASE)
_ROW: dict[str, Any] = dict.fromkeys(ROW.names or (), 0) | {
    "adapter": NONE,
    "strength": 1.0,
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
    """Rows that each of the readers has; the base's have no adapter."""
    return table(
        ROW,
        [
            {
                **_ROW,
                "reader": reader,
                **one,
                **({"adapter": NONE} if reader is Reader.BASE else {}),
            }
            for reader in readers
            for one in columns
        ],
    )


def forward(
    model: LanguageModel,
    ids: Sequence[int],
    *columns: Mapping[str, float],
    readers: Sequence[Reader] = (Reader.EXPERT,),
) -> list[Tensor]:
    """Feeds the rows their tokens, to each of the readers, whose logits are returned."""
    fed = rows(*columns, readers=readers)
    logits = model.forward(np.array([*ids] * len(readers), np.int64), fed)
    return [*logits.split(int(fed["emits"].sum()) // len(readers))]


def choice_step(
    *, bans: Sequence[int] = (), counts: Mapping[int, int] | None = None, **columns: Any
) -> Step:
    """A step of one choice, from the logits of an expert's row and a base's, as far as it has
    both."""
    return step_of(
        [columns],
        bans=[(0, token) for token in bans],
        counts=[(0, token, times) for token, times in (counts or {}).items()],
        readers=[r for r in BOTH if (_CHOICE | columns)[r.name.lower()] != NONE],
    )


def step_of(
    choices: Sequence[Mapping[str, Any]],
    *,
    bans: Sequence[tuple[int, int]] = (),
    counts: Sequence[tuple[int, int, int]] = (),
    readers: Sequence[Reader] = BOTH,
) -> Step:
    """A step of choices, all from the logits of the same row of each of the readers.

    Args:
        choices: the columns of each.
        bans: of BAN.
        counts: of COUNT.
        readers: that have a row.
    """
    return Step(
        tokens=np.zeros(len(readers), np.int64),
        rows=rows({"length": 1}, readers=readers),
        choices=table(CHOICE, [{**_CHOICE, **columns} for columns in choices]),
        bans=np.array([*bans], BAN),
        counts=np.array([*counts], COUNT),
        copies=table(COPY, []),
        adapters=pack_changes([]),
    )
