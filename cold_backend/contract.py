"""The step contract: what `cold` sends to `cold_step` and what comes back.

A step feeds tokens to the sequences named by its rows and picks the next token of every row that
emits. Whatever keeps this contract can stand in the place of the `cold_step` ensemble.

R = rows of the step, T = tokens of all rows together, E = rows that emit, V = vocabulary.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
BytesArray = npt.NDArray[np.object_]

STEP_MODEL = "cold_step"
# Of beta and the like. Far beyond what is of use, and what float32 can still compute with: a score
# that overflowed would have no place among the others.
STRONGEST = 1000.0


class Row(enum.IntEnum):
    """Columns of `Step.rows`."""

    SLOT = 0  # KV-cache slot of the sequence
    START = 1  # tokens that the slot holds already; 0 begins a new sequence
    LENGTH = 2  # tokens that this step feeds
    ADAPTER = 3  # adapter index, -1 for none
    READS = 4  # Reads flags: which logits the choice needs
    EMITS = 5  # 1 if the row picks a token, 0 for an inner chunk of a prompt


class Reads(enum.IntFlag):
    """Which language models run a row."""

    EXPERT = 1
    BASE = 2


class Draw(enum.IntEnum):
    """Columns of `Step.draws`."""

    MODE = 0  # cold_kernels.Mode
    TOP_K = 1  # 0 is off
    SEED = 2  # 64 bits, as signed
    POSITION = 3  # index of the output token; with the seed it fixes the noise
    OPTIONS = 4  # how many of its best tokens the row of a beam wants; 0 for other rows
    GIVEN = 5  # the token that the row has to take, see `decoding.forced`; -1 if it picks one


class Shape(enum.IntEnum):
    """Columns of `Step.shapes`."""

    ALPHA = 0
    BETA = 1
    TEMPERATURE = 2
    TOP_P = 3
    MIN_P = 4
    REPETITION_PENALTY = 5
    PRESENCE_PENALTY = 6
    FREQUENCY_PENALTY = 7


class Copy(enum.IntEnum):
    """Columns of `Step.copies`."""

    FROM = 0  # KV-cache slot
    TO = 1  # KV-cache slot
    START = 2  # first token to copy; those before it are the same in both
    END = 3  # behind the last
    READS = 4  # Reads flags: whose slots


class Pick(enum.IntEnum):
    """Columns of `StepResult.picks`."""

    TOKEN = 0  # -1: the row's logits were not finite
    EXPERT_TOKEN = 1  # the expert's own best; -1 where its logits were not read
    VALID_COUNT = 2  # size of the valid set


class LogProb(enum.IntEnum):
    """Columns of `StepResult.log_probs`; NaN where the logits were not read."""

    EXPERT = 0
    BASE = 1
    DECODING = 2  # of a given token under the row's mode, see `decoding.forced`; NaN for others


class Option(enum.IntEnum):
    """Columns of `StepResult.options`."""

    ROW = 0  # emitting row
    TOKEN = 1


class OptionScore(enum.IntEnum):
    """Columns of `StepResult.option_scores`: log-probabilities."""

    RANKED = 0  # of the scores that the row's mode ranks by, among the tokens that it allows
    EXPERT = 1  # the expert's own; NaN where its logits were not read
    BASE = 2  # likewise the base's


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


@dataclass(frozen=True, slots=True)
class Step:
    """One step's inputs.

    Attributes:
        tokens: [T] token ids, row after row.
        rows: [R, len(Row)].
        draws: [E, len(Draw)].
        shapes: [E, len(Shape)].
        bans: [n, 2] pairs (emitting row, token) that must not be picked.
        counts: [m, 3] triples (emitting row, token, times in the output) for the penalties;
            a token of the prompt alone has count 0.
        adapters: [c] what the expert has to load, see `pack_changes`. A step without rows is there
            for loading alone.
        copies: [k, len(Copy)] what is copied between KV-cache slots before the forward, in any
            order: no slot is copied from and to.
    """

    tokens: Int64Array
    rows: Int32Array
    draws: Int64Array
    shapes: Float32Array
    bans: Int64Array
    counts: Int64Array
    adapters: BytesArray
    copies: Int32Array


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step's outputs.

    Attributes:
        picks: [E, len(Pick)].
        log_probs: [E, len(LogProb)] of the picked token, untouched by penalties and temperature.
        options: [n, len(Option)] the best tokens of each row that wants some, best first.
        option_scores: [n, len(OptionScore)] of these tokens.
        loads: [l] which adapters have been loaded, see `pack_reports`.
    """

    picks: Int64Array
    log_probs: Float32Array
    options: Int64Array
    option_scores: Float32Array
    loads: BytesArray = field(default_factory=lambda: pack_reports(()))


# What the decision is of a result; the rest is the expert's.
DECIDED = tuple(name for name in StepResult.__slots__ if name != "loads")


def reading(rows: Int32Array, reader: Reads) -> npt.NDArray[np.bool_]:
    """Which rows the given model runs: [R] booleans."""
    return (rows[:, Row.READS] & reader) != 0


def emitting(rows: Int32Array) -> npt.NDArray[np.bool_]:
    """Which rows pick a token: [R] booleans."""
    return rows[:, Row.EMITS] != 0
