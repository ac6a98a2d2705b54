"""Compiles every kernel for every Ascend chip, holds what came out against the budgets, reports."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hivm import Profile, profile

try:
    from lowering import HERE, Linalg, LoweringError, to_hivm, to_linalg
except ImportError as missing:
    sys.exit(f"error: {missing}: not triton-ascend's environment; `make ascend-check` makes one")

from cold_kernels.device import ASCEND_CHIPS, ascend_tuning
from cold_kernels.triton_lang.cases import Case, cases

_BUDGETS = HERE / "budgets.json"
_INTRODUCTION = """# Ascend check

Written by `make ascend-check`. It proves that the open part of Ascend's compilers accepts every
kernel up to HIVM, that it fits the unified buffer and stays vectorised, and that its Linalg form
computes on a CPU what the reference does; it proves nothing of the closed last stage (`hivmc`) or
of speed.

Scalar loops: innermost loops that touch memory element by element. The chips differ in cores, which
change the grid alone, so equal rows are one row. Ahead: loads the next tile while it computes.

| kernel | dtype | sizes | chips | buffer bytes | of | vector calls | scalar loops | ahead |
|---|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Result:
    """What came of one case on one chip: a profile or a complaint."""

    case: Case
    chip: str
    profile: Profile | None
    complaint: str = ""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--report", type=Path, required=True)
    report: Path = arguments.parse_args().report
    began = time.monotonic()
    results = list(_check_all())
    failures = [result for result in results if result.complaint]
    if not failures:
        report.write_text(_INTRODUCTION + "".join(_rows(results)))
    print(
        f"{len(results)} compilations, {len(failures)} failures, {time.monotonic() - began:.0f} s"
    )
    sys.exit(bool(failures))


def _check_all() -> Iterator[Result]:
    budgets: dict[str, dict[str, int]] = json.loads(_BUDGETS.read_text())
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        jobs = [
            (case, chip, pool.submit(_check, case, chip, Path(folder), budgets))
            for chip, size in ASCEND_CHIPS.items()
            for case in cases(ascend_tuning(size))
        ]
        for done, (case, chip, job) in enumerate(jobs, start=1):
            result = job.result()
            print(f"[{done}/{len(jobs)}] {chip} {case.name} {result.complaint}", flush=True)
            yield result


_linalg: dict[str, Linalg] = {}


def _check(case: Case, chip: str, folder: Path, budgets: dict[str, dict[str, int]]) -> Result:
    place = folder / chip / case.name
    place.mkdir(parents=True)
    try:
        if case.name not in _linalg:
            _linalg[case.name] = to_linalg(case)
        linalg = _linalg[case.name]
        found = profile(to_hivm(linalg, chip, place), linalg.function)
    except LoweringError as error:
        return Result(case, chip, None, str(error))
    return Result(case, chip, found, _complaint(found, case, chip, budgets))


def _complaint(found: Profile, case: Case, chip: str, budgets: dict[str, dict[str, int]]) -> str:
    size = ASCEND_CHIPS[chip].buffer_bytes
    if found.buffer_bytes > size:
        return f"takes {found.buffer_bytes} bytes of a buffer of {size}"
    budget = budgets.get(case.kernel.__name__)
    if budget is None:
        return f"has no budget in {_BUDGETS.name}"
    if found.scalar_loops > budget["scalar_loops"]:
        return f"{found.scalar_loops} scalar loops, its budget is {budget['scalar_loops']}"
    if budget["double_buffered"] and not found.double_buffered:
        return "no longer loads the next tile while it computes"
    if not found.vector_calls:
        return "nothing of it is vectorised"
    return ""


def _rows(results: list[Result]) -> Iterator[str]:
    """One line for the chips on which a kernel came out the same."""
    alike: dict[tuple[str, Profile | None], list[Result]] = {}
    for result in results:
        alike.setdefault((result.case.name, result.profile), []).append(result)
    for (_, found), same in alike.items():
        if found is None:
            continue
        case = same[0].case
        sizes = " ".join(f"{name.lower()}={int(size)}" for name, size in case.sizes.items())
        chips = " ".join(result.chip.removeprefix("Ascend") for result in same)
        yield (
            f"| {case.kernel.__name__} | {case.dtype} | {sizes} | {chips} | {found.buffer_bytes} "
            f"| {ASCEND_CHIPS[same[0].chip].buffer_bytes} | {found.vector_calls} "
            f"| {found.scalar_loops} | {'yes' if found.double_buffered else 'no'} |\n"
        )


if __name__ == "__main__":
    main()
