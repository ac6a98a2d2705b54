"""The parts of a fuzz run: what each sends where, a batch at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cold_backend.models.checkpoint import empty_model, load_config
from cold_client import Request
from tests.conftest import ROOT
from tests.families import make_adapter, make_model
from tests.fuzz.adapters import fuzz_adapters
from tests.fuzz.verdict import WrongVerdictError
from tests.reference import Decoding, Reference

# From a number of inputs and a seed to the number of inputs by outcome.
Part = Callable[[int, int], Counter[str]]

GOOD = Request(text_input="Once upon a time", max_tokens=12)


def good_tokens(reference: Reference, ids: list[int]) -> list[int]:
    """The answer to `GOOD`, whose tokens are `ids`."""
    return reference.decode(tuple(ids), Decoding("cold"), 12)


def guided(target: str, base_model: Path, corpus: Path) -> Part:
    """See `tests.fuzz.guided`, which needs a process of its own."""
    corpus.mkdir()

    def part(count: int, seed: int) -> Counter[str]:
        module = [sys.executable, "-m", "tests.fuzz.guided"]
        command = [*module, *map(str, (target, base_model, corpus, count, seed))]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise WrongVerdictError((done.stdout + done.stderr)[-4000:])
        return Counter(json.loads(done.stdout.splitlines()[-1]))

    return part


def adapters(folder: Path) -> Part:
    """See `tests.fuzz.adapters`; with a small random model."""
    base = make_model("llama", folder / "base")
    good = make_adapter(base, folder / "good")
    model = empty_model(load_config(str(base)))
    return lambda count, seed: fuzz_adapters(good, model, folder / "scratch", count, seed)
