"""Sends many inputs, most of them wrong, to everything that reads what strangers send.

    python -m tests.fuzz --base-model DIR --adapter NAME=DIR --inputs 100000 --seed 1

Exit code 0 if every input was answered or refused as it should be, models and adapters of all
families among them, and a server that had a part of the inputs still gives the tokens of the slow
reference, in the processes that it began with.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cold_backend.config import Settings
from cold_backend.server.process import Endpoints, ServerProcess
from cold_backend.text.tokenizer import Tokenizer
from tests.conftest import await_ready, free_ports
from tests.fuzz import parts
from tests.fuzz.models import fuzz_models
from tests.fuzz.served import Health, fuzz_gateway, fuzz_grpc, fuzz_http
from tests.reference import Reference
from tests.server.test_openai import running

# Of the inputs, and how many at a time.
_SHARES = {
    "parser": (0.547, 10_000),
    "gateway's bodies": (0.30, 10_000),
    "adapters": (0.03, 1000),
    "models": (0.003, 20),
    "server, HTTP": (0.05, 1000),
    "server, gRPC": (0.05, 1000),
    "gateway": (0.02, 1000),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--base-model", type=Path, required=True)
    parser.add_argument("--adapter", required=True, metavar="NAME=DIR")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    adapter = Path(options.adapter.partition("=")[2]).absolute()
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(options.inputs, options.seed)
        for name, target in (("parser", "parser"), ("gateway's bodies", "gateway")):
            run(name, parts.guided(target, options.base_model, Path(folder) / target))
        run("adapters", parts.adapters(Path(folder)))
        run("models", partial(fuzz_models, Path(folder) / "models"))
    with _served(options.base_model, adapter) as (http, grpc, gateway):
        run("server, HTTP", partial(fuzz_http, http))
        run("server, gRPC", partial(fuzz_grpc, grpc))
        run("gateway", partial(fuzz_gateway, gateway))
    run.summarise()
    return 0


class _Run:
    def __init__(self, inputs: int, seed: int) -> None:
        self._inputs = inputs
        self._seed = seed
        self._outcomes: dict[str, Counter[str]] = {}
        self._begun_s = time.monotonic()

    def __call__(self, name: str, part: parts.Part) -> None:
        """Has a part do its share, with a line for every batch."""
        share, batch = _SHARES[name]
        left = round(self._inputs * share)
        done = self._outcomes[name] = Counter[str]()
        while left > 0:
            done += part(min(batch, left), self._seed + done.total())
            left -= batch
            _say(f"{time.monotonic() - self._begun_s:6.0f} s  {name}: {done.total()}")

    def summarise(self) -> None:
        total = sum(outcomes.total() for outcomes in self._outcomes.values())
        _say(f"{total} inputs, none with a wrong outcome:")
        for name, outcomes in self._outcomes.items():
            kinds = ", ".join(f"{kind} {number}" for kind, number in outcomes.most_common())
            _say(f"  {name}, {outcomes.total()}: {kinds}")


@contextmanager
def _served(base_model: Path, adapter: Path) -> Iterator[tuple[str, str, str]]:
    """A server and a gateway; on leaving, checks that the server is still what it was."""
    settings = Settings(
        base_model=str(base_model.absolute()),
        adapters={"equations": str(adapter)},
        dtype="float32",
        max_context=96,
    )
    http, grpc, metrics = free_ports(3)
    endpoints = Endpoints(http_port=http, grpc_port=grpc, metrics_port=metrics)
    ids = Tokenizer(str(base_model), 49152).encode(parts.GOOD.text_input or "")
    with tempfile.TemporaryDirectory() as memory:
        tokens = parts.good_tokens(Reference(base_model, adapter, Path(memory)), ids)
    with ServerProcess(settings, endpoints) as server:
        await_ready(server)
        url = f"http://127.0.0.1:{http}"
        health = Health(url, f"http://127.0.0.1:{metrics}/metrics")
        with running(f"grpc://127.0.0.1:{grpc}") as gateway:
            yield url, f"127.0.0.1:{grpc}", gateway.removesuffix("/v1")
        health.check(parts.GOOD, tokens)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
