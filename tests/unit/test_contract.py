"""The step contract: tables by name, and what tritonserver carries of them."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from cold_backend.contract import (
    BIAS,
    CANDIDATE,
    CHOICE,
    COPY,
    PICK,
    AdapterChange,
    Reader,
    StepResult,
    pack_changes,
    result_of,
    step_of,
    table,
    to_tensors,
    unpack_changes,
)
from cold_backend.requests.sampling import Sampling
from tests.steps import choice_step


def test_a_step_comes_through_tritonserver_as_it_was() -> None:
    step = choice_step(
        bans=[3, 49151],
        counts={7: 2, 9: 0},
        seed=2**64 - 1,
        position=2**40,
        temperature=0.7,
        min_p=0.05,
    )
    tensors = to_tensors(step)
    assert {name for name, tensor in tensors.items() if tensor.dtype == np.uint8} == {
        "rows",
        "choices",
        "biases",
        "counts",
        "copies",
    }
    back = step_of(tensors)
    for one in fields(step):
        sent, come = getattr(step, one.name), getattr(back, one.name)
        assert sent.dtype == come.dtype
        assert (sent == come).all()
    assert back.choices["seed"][0] == 2**64 - 1
    assert back.rows["reader"].tolist() == [Reader.EXPERT, Reader.BASE]
    assert back.counts[["token", "times"]].tolist() == [(7, 2), (9, 0)]


def test_a_model_that_is_given_a_part_has_nothing_of_the_rest() -> None:
    back = step_of({"rows": to_tensors(choice_step())["rows"]})
    assert len(back.rows) == 2
    assert back.choices.dtype == CHOICE and not len(back.choices)
    assert back.copies.dtype == COPY and not len(back.copies)


def test_a_result_comes_through_tritonserver_as_it_was() -> None:
    picks = np.zeros(2, PICK)
    picks["token"], picks["base_log_prob"] = (5, -1), (np.nan, -2.5)
    changes = pack_changes([AdapterChange(3, "a", "/a", (1, 2))])
    result = result_of(to_tensors(StepResult(picks, table(CANDIDATE, []), loads=changes)))
    assert result.picks["token"].tolist() == [5, -1]
    assert np.isnan(result.picks["base_log_prob"][0])
    assert unpack_changes(result.loads)[0].stamp == (1, 2)


@pytest.mark.parametrize("row", [{"choice": 0}, {"choice": 0, "token": 1, "times": 2}])
def test_a_row_of_a_table_has_its_columns_and_no_other(row: dict[str, int]) -> None:
    with pytest.raises(KeyError):
        table(BIAS, [row])


def test_whatever_samples_is_told_to_the_models() -> None:
    assert {one.name for one in fields(Sampling)} <= set(CHOICE.names or ())
