"""The tests of the kernels, on the device alone."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.device.bench import Bench

ROOT = Path(__file__).resolve().parents[2]
_TESTS = ("test_parity", "test_ops", "test_layer", "test_reference")
# A device need not have the native implementation beside it.
_CHOSEN = "not native and not the_choice_is_logged"
_LINES = 12  # of a failure
_PROCESSES = 8


def run(bench: Bench, seconds: float, *, quick: bool) -> dict[str, Any]:
    """How many pass, and the failures of those that do not."""
    chosen = "test_ties" if quick else _CHOSEN
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-c", "kernels/ascend/pytest.ini", "--rootdir", ".", "--noconftest", "-v"]
        options += ["-p", "no:cacheprovider", "-p", "tests.kernels.on_device"]
        options += ["--on", bench.device.type, "-k", chosen, f"--junitxml={report}", "--tb=short"]
        if not quick and importlib.util.find_spec("xdist"):
            options += ["-n", str(min(_PROCESSES, os.cpu_count() or 1))]
        files = [f"tests/kernels/{name}.py" for name in _TESTS]
        path = os.pathsep.join([".", "kernels", *filter(None, [os.environ.get("PYTHONPATH")])])
        begun = time.perf_counter()
        log = Path(folder) / "log"
        with log.open("w") as output, suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [sys.executable, "-m", "pytest", *options, *files],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path},
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds,
            )
        printed = log.read_text()
        if not report.exists():
            raise RuntimeError(f"no report after {seconds:g} s:\n{printed[-3000:]}")
        cases = [*ElementTree.parse(report).getroot().iter("testcase")]
    failures = dict(_failures(cases))
    for name, text in failures.items():
        print(f"FAILED {name}\n{text}", flush=True)
    print(printed.splitlines()[-1], flush=True)
    return {
        "tests": len(cases),
        "failures": failures,
        "seconds": round(time.perf_counter() - begun, 1),
    }


def _failures(cases: list[ElementTree.Element]) -> list[tuple[str, str]]:
    found = []
    for case in cases:
        for kind in ("failure", "error"):
            for problem in case.findall(kind):
                lines = (problem.text or problem.get("message") or "").splitlines()
                name = f"{case.get('classname')}::{case.get('name')}"
                found.append((name, "\n".join(lines[-_LINES:])))
    return found
