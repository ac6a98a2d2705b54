"""The step contract: what `cold` sends to `cold_step` and what comes back.

A step feeds tokens to contexts, one row each, and picks a token for every choice, from the logits
of one row or two. Whatever keeps this contract can stand in the place of the `cold_step` ensemble.

R = rows, T = tokens of all rows together, B = blocks of all rows together, E = choices, V =
vocabulary. Tables have columns by name: `step.choices["alpha"]` is [E].

Keys and values are kept in blocks of BLOCK_TOKENS tokens, in a pool of the language model that runs
a row. A context's blocks hold its tokens in order; several contexts may have the same full blocks.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
BytesArray = npt.NDArray[np.object_]
Table = npt.NDArray[np.void]

STEP_MODEL = "cold_step"
BLOCK_TOKENS = 16  # as many as a panel of the CPU's kernels has lanes
# Of beta and the like. Far beyond what is of use, and what float32 can still compute with: a score
# that overflowed would have no place among the others.
STRONGEST = 1000.0
MAX_ADAPTERS = 4  # of one row
NONE = -1  # where a column names a row, an adapter or a token, and there is none


class Reader(enum.IntEnum):
    """Which language model runs a row."""

    EXPERT = 0  # has adapters
    BASE = 1  # has none


# A context's part of the step.
ROW = np.dtype(
    [
        ("reader", np.int32),  # Reader
        ("start", np.int32),  # tokens that its blocks hold already; 0 begins a new context
        ("length", np.int32),  # tokens that this step feeds
        ("adapters", np.int32, MAX_ADAPTERS),  # adapter indices, or NONE
        ("strengths", np.float32, MAX_ADAPTERS),  # factor of each
        ("emits", np.int32),  # 1 if the logits after its last token are wanted
    ]
)
# How a token is picked.
CHOICE = np.dtype(
    [
        ("expert", np.int32),  # row whose logits are the expert's, or NONE
        ("base", np.int32),  # row whose logits are the amateur's, or NONE
        ("mode", np.int32),  # cold_kernels.Mode
        ("top_k", np.int32),  # 0 is off
        ("seed", np.uint64),
        ("position", np.int64),  # index of the output token; with the seed it fixes the noise
        ("forced", np.int64),  # the token that has to be taken, see `decoding.forced`, or NONE
        ("candidates", np.int32),  # how many of its best tokens a beam wants; 0 for others
        ("alternatives", np.int32),  # how many of its best tokens the reader is asked for
        ("alpha", np.float32),
        ("beta", np.float32),
        ("divergence", np.int32),  # 1 if beta is times how far expert and base are apart
        ("temperature", np.float32),
        ("top_p", np.float32),
        ("min_p", np.float32),
        ("repetition_penalty", np.float32),
        ("presence_penalty", np.float32),
        ("frequency_penalty", np.float32),
    ]
)
# What is added to a token's logits, the expert's and the base's, before anything looks at them;
# minus infinity for one that must not be picked.
BIAS = np.dtype([("choice", np.int32), ("token", np.int64), ("bias", np.float32)])
# A token that the penalties look at: of the output, or with times 0 of the prompt alone.
COUNT = np.dtype([("choice", np.int32), ("token", np.int64), ("times", np.int64)])
# What is copied between blocks of a reader's pool.
COPY = np.dtype([("reader", np.int32), ("source", np.int32), ("target", np.int32)])
# What was picked. Log-probabilities are those of the token, untouched by penalties and temperature,
# and NaN where the logits were not read.
PICK = np.dtype(
    [
        ("token", np.int64),  # NONE: the logits were not finite
        ("expert_token", np.int64),  # the expert's own best, or NONE
        ("valid_count", np.int64),  # size of the valid set
        ("expert_log_prob", np.float32),
        ("base_log_prob", np.float32),
        ("decoding_log_prob", np.float32),  # of a forced token under the mode; NaN for others
    ]
)
# A token that may continue a beam.
CANDIDATE = np.dtype(
    [
        ("choice", np.int32),
        ("token", np.int64),
        ("log_prob", np.float32),  # by what the mode ranks by, among the tokens that it allows
        ("expert_log_prob", np.float32),  # the expert's own; NaN where it was not read
        ("base_log_prob", np.float32),  # likewise the base's
    ]
)
# A token that the expert, or the base where no expert is read, finds most probable by itself.
ALTERNATIVE = np.dtype([("choice", np.int32), ("token", np.int64), ("log_prob", np.float32)])


@dataclass(frozen=True, slots=True)
class AdapterChange:
    """An adapter that the expert has to load, beside this step and those after it.

    Attributes:
        index: the adapter index that will stand for it; no row has it until a report says so.
        name: what requests call it.
        path: its directory.
        stamp: of the files that are to be loaded.
        evicts: name of the adapter that had the index before, empty if none.
    """

    index: int
    name: str
    path: str
    stamp: tuple[int, ...] = ()
    evicts: str = ""


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """How loading an adapter ended: there is one for every change, with that step or a later one.

    Attributes:
        index: of the change.
        name: likewise.
        stamp: likewise.
        problem: why it could not be loaded; empty if it is in its place.
        passing: whether another try may help.
    """

    index: int
    name: str
    stamp: tuple[int, ...]
    problem: str = ""
    passing: bool = False


def pack_changes(changes: Iterable[AdapterChange]) -> BytesArray:
    """Changes as `Step.adapters`."""
    return _packed(map(asdict, changes))


def unpack_changes(packed: npt.NDArray[Any]) -> list[AdapterChange]:
    """`Step.adapters` as changes."""
    return [AdapterChange(**values) for values in _unpacked(packed)]


def pack_reports(reports: Iterable[AdapterReport]) -> BytesArray:
    """Reports as `StepResult.loads`."""
    return _packed(map(asdict, reports))


def unpack_reports(packed: npt.NDArray[Any]) -> list[AdapterReport]:
    """`StepResult.loads` as reports."""
    return [AdapterReport(**values) for values in _unpacked(packed)]


def _packed(objects: Iterable[dict[str, Any]]) -> BytesArray:
    return np.array([json.dumps(values).encode() for values in objects], np.object_)


def _unpacked(packed: npt.NDArray[Any]) -> Iterable[dict[str, Any]]:
    for one in packed:
        values = json.loads(one)
        yield values | {"stamp": tuple(values["stamp"])}


# The parts of a step and of its result that are tables.
_TABLES = {
    "rows": ROW,
    "choices": CHOICE,
    "biases": BIAS,
    "counts": COUNT,
    "copies": COPY,
    "picks": PICK,
    "candidates": CANDIDATE,
    "alternatives": ALTERNATIVE,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One step's inputs.

    Attributes:
        tokens: [T] token ids, row after row.
        rows: [R] of ROW, those of the expert before those of the base.
        blocks: [B] the blocks of each row, row after row, as many as its start + length tokens
            need. Those from `start` on are no other row's.
        choices: [E] of CHOICE.
        biases: [n] of BIAS.
        counts: [m] of COUNT.
        copies: [k] of COPY, made before the forward, in any order: no block is copied from and to.
        adapters: [c] what the expert has to load, see `pack_changes`. A step without rows is there
            for loading alone.
    """

    tokens: Int64Array
    rows: Table
    blocks: Int32Array
    choices: Table
    biases: Table
    counts: Table
    copies: Table
    adapters: BytesArray


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step's outputs.

    Attributes:
        picks: [E] of PICK.
        candidates: [n] of CANDIDATE, for each choice that wants some, best first.
        alternatives: [m] of ALTERNATIVE, likewise.
        loads: [l] which adapters have been loaded, see `pack_reports`.
        expert_blocks: [1] how many blocks the expert's pool has.
        base_blocks: [1] likewise the base's; 0 if its contexts are in the expert's pool.
    """

    picks: Table
    candidates: Table
    alternatives: Table = field(default_factory=lambda: table(ALTERNATIVE, []))
    loads: BytesArray = field(default_factory=lambda: pack_reports(()))
    expert_blocks: Int64Array = field(default_factory=lambda: np.zeros(1, np.int64))
    base_blocks: Int64Array = field(default_factory=lambda: np.zeros(1, np.int64))


DECIDED = ("picks", "candidates", "alternatives")  # what the decision is of a result


def blocks_for(tokens: int) -> int:
    """Blocks that so many tokens of a context need."""
    return -(-tokens // BLOCK_TOKENS)


def table(dtype: np.dtype[Any], rows: Iterable[Mapping[str, Any]]) -> Table:
    """A table [n] from its rows, each with a value for every column and no other.

    Raises:
        KeyError: a row has other columns.
    """
    names = dtype.names or ()
    values = []
    for row in rows:
        if len(row) != len(names):
            raise KeyError(f"{sorted(row.keys() ^ {*names})} are not columns of both")
        values.append(tuple(row[name] for name in names))
    return np.array(values, dtype)


def to_tensors(contract: Step | StepResult) -> dict[str, npt.NDArray[Any]]:
    """What tritonserver carries: a table as its bytes, [n, bytes of a row]."""
    parts = {one.name: getattr(contract, one.name) for one in fields(contract)}
    return {name: _to_bytes(part) if name in _TABLES else part for name, part in parts.items()}


def step_of(tensors: Mapping[str, npt.NDArray[Any]]) -> Step:
    """The step from what tritonserver carried; a part that a model is not given is empty."""
    return Step(**_values(Step, tensors))


def result_of(tensors: Mapping[str, npt.NDArray[Any]]) -> StepResult:
    """The result from what tritonserver carried."""
    return StepResult(**_values(StepResult, tensors))


def _values(
    contract: type[Step | StepResult], tensors: Mapping[str, npt.NDArray[Any]]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for one in fields(contract):
        dtype, tensor = _TABLES.get(one.name), tensors.get(one.name)
        if tensor is None:
            values[one.name] = np.empty(0, dtype or np.int32)
        else:
            values[one.name] = _from_bytes(tensor, dtype) if dtype else tensor
    return values


def _to_bytes(rows: Table) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), rows.dtype.itemsize)


def _from_bytes(tensor: npt.NDArray[Any], dtype: np.dtype[Any]) -> Table:
    return np.ascontiguousarray(tensor).reshape(-1).view(dtype)
