"""What running streams notice when adapters come in: the largest gap between two tokens.

    OMP_PROC_BIND=true python benchmarks/adapter_gaps.py --base-model DIR

Beside running streams short requests come, one after the other: each with an adapter that the
server has to load, then, in the same time, as many with one that it has and the streams have not.
The ratio is that of the largest gaps.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

# Run as a program, not as a module.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.circumstances import circumstances, save_result
from benchmarks.random_adapter import make_adapter
from benchmarks.rounds import parser_of
from benchmarks.served import Served, running_server
from cold_backend.config import Settings
from cold_client import AsyncClient, Request

_CONTEXT = 2048
_PROMPT = list(range(500, 564))
_KNOWN, _OTHER = "known", "other"  # the streams', and one that is there as well
BAR = 1.2


class Gaps:
    """The largest gap between two tokens of any stream, while it is looked at."""

    def __init__(self) -> None:
        self.largest_s = 0.0
        self.watching = False

    async def stream(self, client: AsyncClient, begun: asyncio.Event) -> None:
        """Reads answers, one after the other, until it is cancelled."""
        request = Request(
            input_ids=_PROMPT,
            lora_name=_KNOWN,
            decoding="cold",
            max_tokens=_CONTEXT - len(_PROMPT),
            ignore_eos=True,
        )
        while True:
            last_s = None
            async with client.stream(request) as pieces:
                async for _ in pieces:
                    now_s = time.perf_counter()
                    if self.watching and last_s is not None:
                        self.largest_s = max(self.largest_s, now_s - last_s)
                    last_s = now_s
                    begun.set()

    @asynccontextmanager
    async def beside(self, client: AsyncClient, streams: int) -> AsyncIterator[None]:
        """Watches so many streams during the block."""
        events = [asyncio.Event() for _ in range(streams)]
        tasks = [asyncio.create_task(self.stream(client, event)) for event in events]
        try:
            for event in events:
                await event.wait()
            await asyncio.sleep(0.5)
            self.watching = True
            yield
            for task in tasks:
                if task.done():
                    task.result()  # raises what ended it
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def largest_gap_s(
    client: AsyncClient, names: Sequence[str], streams: int, over_s: float = 0
) -> tuple[float, float]:
    """Beside streams, a short request with each of the adapters, one after the other.

    Args:
        over_s: seconds that the requests are spread over, if they take less.

    Returns:
        The gap, and how long the streams were watched.
    """
    gaps = Gaps()
    async with gaps.beside(client, streams):
        begun_s = time.perf_counter()
        for number, name in enumerate(names, 1):
            await client.generate(Request(input_ids=_PROMPT[:8], lora_name=name, max_tokens=2))
            ends_s = begun_s + over_s * number / len(names)
            await asyncio.sleep(max(0, ends_s - time.perf_counter()))
        return gaps.largest_s, time.perf_counter() - begun_s


def main() -> int:
    options = parse_arguments()
    details = circumstances("benchmarks/adapter_gaps.py")
    with tempfile.TemporaryDirectory(prefix="cold-gaps-") as temporary:
        folder = Path(temporary) / "adapters"
        adapter = Path(temporary) / "adapter"
        make_adapter(options.base_model, adapter, rank=options.rank)
        folder.mkdir()
        names = [f"new{number}" for number in range(options.adapters * options.rounds)]
        for name in names:
            shutil.copytree(adapter, folder / name)
        settings = Settings(
            base_model=str(options.base_model),
            adapters={_KNOWN: str(adapter), _OTHER: str(adapter)},
            adapters_dir=str(folder),
            max_lora_rank=options.rank,
            max_context=_CONTEXT,
            dtype=options.dtype,
        )
        with running_server(settings) as server:
            rounds = measure(server, names, options)
    ratio = statistics.median(one["ratio"] for one in rounds)
    print(f"median ratio {ratio:.2f}; the bar is {BAR}")
    result = {**details, "bar": BAR, "ratio": ratio, "rounds": rounds}
    save_result(result, options.out / "adapter_gaps.json")
    return 0


def measure(
    server: Served, names: Sequence[str], options: argparse.Namespace
) -> list[dict[str, float]]:
    rounds = []
    for number in range(options.rounds):
        new = names[number * options.adapters : (number + 1) * options.adapters]
        run, streams = server.runner.run, options.streams
        with_s, watched_s = run(largest_gap_s(server.client, new, streams))
        # For as long: the longer one looks, the larger is the largest.
        there = [_OTHER] * len(new)
        without_s, _ = run(largest_gap_s(server.client, there, streams, watched_s))
        without_ms, with_ms = 1000 * without_s, 1000 * with_s
        print(
            f"round {number + 1}: largest gap {without_ms:.0f} ms with adapters that are there, "
            f"{with_ms:.0f} ms with {len(new)} that come in: {with_ms / without_ms:.2f} x",
            flush=True,
        )
        rounds.append({"without_ms": without_ms, "with_ms": with_ms, "ratio": with_ms / without_ms})
    return rounds


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--streams", type=int, default=8)
    add("--adapters", type=int, default=20, help="that come in, in each round")
    add("--rank", type=int, default=64, help="of the adapters")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
