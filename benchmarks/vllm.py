"""Starts vLLM as a resident arm, in the virtual environment that `make peers` makes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import say
from benchmarks.resident import Resident

_ARM = Path(__file__).parent / "peers/vllm_arm.py"


def environment(text: str) -> Path:
    """The type of an option that names the virtual environment."""
    path = Path(text).expanduser().absolute()
    if not (path / "bin" / "python").exists():
        raise argparse.ArgumentTypeError(f"no bin/python in {text!r}; `make bench` makes it")
    return path


@contextmanager
def vllm(peers: Path, threads: int, arguments: Sequence[object]) -> Iterator[Resident]:
    """The arm, with the libraries that vLLM's own documents say to preload.

    Args:
        peers: the virtual environment.
        threads: of its products.
        arguments: of peers/vllm_arm.py.
    """
    say("loading vLLM; it compiles for a minute or two")
    patterns = ("lib/libiomp5.so", "tcmalloc/**/libtcmalloc_minimal.so.4")
    libraries = [path for pattern in patterns for path in peers.glob(pattern)]
    say(f"vLLM with {', '.join(path.name for path in libraries) or 'no library'} preloaded")
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "LD_PRELOAD": ":".join(str(path) for path in libraries),
    }
    program = [str(peers / "bin" / "python"), str(_ARM)]
    with Resident([*program, *map(str, arguments)], environment) as arm:
        yield arm
