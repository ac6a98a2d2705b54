"""What prefix reuse saves, and what it costs where nothing is shared: times to the first token.

    OMP_PROC_BIND=true python benchmarks/prefix_reuse.py --base-model DIR

In process, with expert and base, token ids at random:

shared: requests with one system prompt, one after the other, over several adapters;
chat: turns of a conversation, beside a prompt of the new tokens alone;
together: the requests of `shared` all at once, with reuse and without;
apart: requests that share nothing, with reuse and without, the time of an answer's token too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

# Run as a program, not as a module.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.circumstances import circumstances, save_result
from benchmarks.random_adapter import make_adapter
from cold_backend import Cold
from cold_backend.offline import Answer

_ADAPTERS = 4
_OWN, _TURN, _ANSWER = 32, 40, 32  # tokens
BARS = {"shared": 0.35, "chat": 1.3, "apart": 1.03}

Figures = dict[str, float]


class Bench:
    """Two engines that differ in one setting.

    Args:
        options: of the command line.
        adapter: a directory.
    """

    def __init__(self, options: argparse.Namespace, adapter: Path) -> None:
        self._options = options
        self._chance = random.Random(7)
        self._names = [f"adapter{number}" for number in range(_ADAPTERS)]
        adapters = dict.fromkeys(self._names, str(adapter))
        self._reuse, self._anew = (
            Cold(
                str(options.base_model),
                adapters,
                dtype=options.dtype,
                max_context=options.context,
                prefix_reuse=reuse,
            )
            for reuse in (True, False)
        )

    def shared(self) -> Figures:
        """The first request, those that are each adapter's first, and the rest."""
        prompts = self._prompts()
        times_ms = [self._ttft_ms(*one) for one in prompts]
        return {
            "first_ms": times_ms[0],
            "new_adapter_ms": statistics.median(times_ms[1:_ADAPTERS]),
            "later_ms": statistics.median(times_ms[_ADAPTERS:]),
            "ratio": statistics.median(times_ms[1:]) / times_ms[0],
        }

    def chat(self) -> Figures:
        """The median of the turns but the first."""
        history: list[int] = []
        ratios = []
        for turn in range(self._options.turns):
            new = self._ids(_TURN)
            answer = self._answer(self._reuse, [*history, *new], self._names[0], _ANSWER)
            if turn:
                # The last token of an answer has been fed to nobody.
                alone = self._ttft_ms(self._ids(_TURN + 1), self._names[0])
                ratios.append(1000 * answer.ttft_s / alone)
            history += [*new, *(token.id for token in answer.tokens)]
        return {"ratio": statistics.median(ratios), "worst": max(ratios)}

    def together(self) -> Figures:
        """Means over the requests."""
        prompts = self._prompts()
        times_ms = [self._all_ms(cold, prompts, 1) for cold in (self._reuse, self._anew)]
        return {"reuse_ms": times_ms[0], "anew_ms": times_ms[1], "ratio": times_ms[0] / times_ms[1]}

    def apart(self) -> Figures:
        """Times of whole answers."""
        count = self._options.requests
        prompts = [(self._ids(128), self._names[n % _ADAPTERS]) for n in range(count)]
        times_ms = [self._all_ms(cold, prompts, _ANSWER) for cold in (self._reuse, self._anew)]
        return {"reuse_ms": times_ms[0], "anew_ms": times_ms[1], "ratio": times_ms[0] / times_ms[1]}

    def _prompts(self) -> list[tuple[list[int], str]]:
        system = self._ids(self._options.system)
        return [
            ([*system, *self._ids(_OWN)], self._names[number % _ADAPTERS])
            for number in range(self._options.requests)
        ]

    def _ids(self, count: int) -> list[int]:
        return [self._chance.randrange(100, 4000) for _ in range(count)]

    def _ttft_ms(self, prompt: Sequence[int], adapter: str) -> float:
        return 1000 * self._answer(self._reuse, prompt, adapter, 1).ttft_s

    def _all_ms(self, cold: Cold, prompts: list[tuple[list[int], str]], tokens: int) -> float:
        requests = [
            cold.request(prompt, lora_name=adapter, max_tokens=tokens, ignore_eos=True)
            for prompt, adapter in prompts
        ]
        return 1000 * statistics.fmean(answer.latency_s for _, answer in cold.each(requests))

    def _answer(self, cold: Cold, prompt: Sequence[int], adapter: str, tokens: int) -> Answer:
        fields = {"lora_name": adapter, "max_tokens": tokens, "ignore_eos": True, "stream": True}
        ((_, answer),) = cold.each([cold.request(prompt, **fields)])
        return answer


def main() -> int:
    options = parse_arguments()
    details = circumstances("benchmarks/prefix_reuse.py")
    with tempfile.TemporaryDirectory(prefix="cold-reuse-") as temporary:
        adapter = Path(temporary) / "adapter"
        make_adapter(options.base_model, adapter, rank=16)
        bench = Bench(options, adapter)
        bench.apart()  # what is warmed up is no matter of reuse
        parts = (bench.shared, bench.chat, bench.together, bench.apart)
        rounds: list[dict[str, Figures]] = []
        for number in range(options.rounds):
            rounds.append({part.__name__: part() for part in parts})
            print(f"round {number + 1}: {json.dumps(rounds[-1])}", flush=True)
    names = [part.__name__ for part in parts]
    ratios = {name: statistics.median(one[name]["ratio"] for one in rounds) for name in names}
    for name, ratio in ratios.items():
        bar = f"; the bar is {BARS[name]}" if name in BARS else ""
        print(f"{name}: median ratio {ratio:.2f}{bar}")
    result = {**details, "bars": BARS, "ratios": ratios, "rounds": rounds}
    save_result(result, options.out / "prefix_reuse.json")
    return 0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--base-model", type=Path, required=True, metavar="DIR")
    add("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    add("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    add("--context", type=int, default=1024, help="tokens of a request, at most")
    add("--system", type=int, default=512, help="tokens of the system prompt")
    add("--requests", type=int, default=16)
    add("--turns", type=int, default=10)
    add("--rounds", type=int, default=3)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
