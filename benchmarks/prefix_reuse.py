"""What prefix reuse saves, and what it costs where nothing is shared: times to the first token.

    OMP_PROC_BIND=true python benchmarks/prefix_reuse.py --base-model DIR [--peers DIR]

In process, with expert and base, token ids at random:

shared: requests with one system prompt, one after the other, over several adapters;
chat: turns of a conversation, beside a prompt of the new tokens alone;
together: the requests of `shared` all at once, with reuse and without;
apart: requests that share nothing, with reuse and without, whole answers.

With --peers also `shared` and `chat` of vLLM with its prefix caching, greedily and for one adapter.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

# Run as a program, not as a module.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.circumstances import circumstances, save_result
from benchmarks.measure import Generated
from benchmarks.random_adapter import make_adapter
from benchmarks.resident import Resident
from benchmarks.rounds import parser_of, run_rounds
from benchmarks.vllm import environment, vllm
from cold_backend import Cold

_ADAPTERS = 4
_OWN, _TURN, _ANSWER = 32, 40, 32  # tokens
BARS = {"shared": 0.35, "chat": 1.3, "apart": 1.03}

Figures = dict[str, float]
# Takes a prompt, an adapter's name and how many tokens to answer with.
Ask = Callable[[Sequence[int], str, int], Generated]


class Bench:
    """Two engines that differ in one setting, and maybe vLLM.

    Args:
        options: of the command line.
        adapter: a directory.
        peer: vLLM with prefix caching.
    """

    def __init__(self, options: argparse.Namespace, adapter: Path, peer: Resident | None) -> None:
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
        self._peer = peer

    def round(self) -> dict[str, Figures]:
        """Every part once."""
        found = {
            "shared": self._shared(self._ask),
            "chat": self._chat(self._ask),
            "together": self._together(),
            "apart": self.apart(),
        }
        if self._peer:
            found |= {
                "vllm_shared": self._shared(self._ask_peer),
                "vllm_chat": self._chat(self._ask_peer),
            }
        return found

    def _shared(self, ask: Ask) -> Figures:
        """The first request, those that are each adapter's first, and the rest."""
        times_ms = [1000 * ask(*one, 1).ttft_s for one in self._prompts()]
        return {
            "first_ms": times_ms[0],
            "new_adapter_ms": statistics.median(times_ms[1:_ADAPTERS]),
            "later_ms": statistics.median(times_ms[_ADAPTERS:]),
            "ratio": statistics.median(times_ms[1:]) / times_ms[0],
        }

    def _chat(self, ask: Ask) -> Figures:
        """The median of the turns but the first."""
        history: list[int] = []
        ratios = []
        for turn in range(self._options.turns):
            new = self._ids(_TURN)
            answer = ask([*history, *new], self._names[0], _ANSWER)
            if turn:
                # The last token of an answer has been fed to nobody.
                alone = ask(self._ids(_TURN + 1), self._names[0], 1)
                ratios.append(answer.ttft_s / alone.ttft_s)
            history += [*new, *answer.token_ids]
        return {"ratio": statistics.median(ratios), "worst": max(ratios)}

    def _together(self) -> Figures:
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

    def _all_ms(self, cold: Cold, prompts: list[tuple[list[int], str]], tokens: int) -> float:
        requests = [
            cold.request(prompt, lora_name=adapter, max_tokens=tokens, ignore_eos=True)
            for prompt, adapter in prompts
        ]
        return 1000 * statistics.fmean(answer.latency_s for _, answer in cold.each(requests))

    def _ask(self, prompt: Sequence[int], adapter: str, tokens: int) -> Generated:
        fields = {"lora_name": adapter, "max_tokens": tokens, "ignore_eos": True, "stream": True}
        ((_, answer),) = self._reuse.each([self._reuse.request(prompt, **fields)])
        return Generated([token.id for token in answer.tokens], answer.ttft_s, answer.latency_s)

    def _ask_peer(self, prompt: Sequence[int], _adapter: str, tokens: int) -> Generated:
        if self._peer is None:
            raise RuntimeError("vLLM was not started")
        (answer,) = self._peer.arm("greedy")([[*prompt]], tokens)
        return answer


def main() -> int:
    options = parse_arguments()
    details = circumstances("benchmarks/prefix_reuse.py")
    with ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="cold-reuse-"))
        adapter = Path(temporary) / "adapter"
        make_adapter(options.base_model, adapter, rank=16)
        peer = None
        if options.peers:
            settings = (options.dtype, adapter, "--context", options.context, "--reuse")
            arm = vllm(options.peers, len(os.sched_getaffinity(0)), (options.base_model, *settings))
            peer = stack.enter_context(arm)
        bench = Bench(options, adapter, peer)
        bench.apart()  # what is warmed up is no matter of reuse
        rounds = run_rounds(options.rounds, bench.round)
    ratios = {name: statistics.median(one[name]["ratio"] for one in rounds) for name in rounds[0]}
    for name, ratio in ratios.items():
        bar = f"; the bar is {BARS[name]}" if name in BARS else ""
        print(f"{name}: median ratio {ratio:.2f}{bar}")
    result = {**details, "bars": BARS, "ratios": ratios, "rounds": rounds}
    save_result(result, options.out / "prefix_reuse.json")
    return 0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--peers", type=environment, metavar="DIR", help="virtual environment with vLLM")
    add("--context", type=int, default=1024, help="tokens of a request, at most")
    add("--system", type=int, default=512, help="tokens of the system prompt")
    add("--requests", type=int, default=16)
    add("--turns", type=int, default=10)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
