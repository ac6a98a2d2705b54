"""What it costs to sample, filter, penalise, and to contrast with another amateur.

    OMP_PROC_BIND=true python benchmarks/sampling.py --base-model DIR

The time of a token in process, token ids at random, with the expert alone and CoLD:

sampled: temperature, top_p and top_k, against the best token;
penalised: repetition and frequency penalties after a long prompt, against the best token after it;
amateurs: CoLD with an amateur that has the adapter and a prompt of its own, as long as the
    expert's, or another adapter; with beta by divergence; and with two adapters at once: against
    CoLD.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

# Run as a program, not as a module.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.circumstances import circumstances, save_result
from benchmarks.random_adapter import make_adapter
from benchmarks.rounds import parser_of, run_rounds
from cold_backend import Cold

_AMATEUR, _RULE = 1 / 1.03, 1 / 1.02  # bars
_SHORT = 64  # tokens of a prompt
_SAMPLED = {"temperature": 0.7, "top_p": 0.9, "top_k": 50}
_PENALISED = {"repetition_penalty": 1.1, "frequency_penalty": 0.2}
_ADAPTERS = ("first", "second")


class Bench:
    """Answers of one engine in company.

    Args:
        options: of the command line.
        adapters: directories by name.
    """

    def __init__(self, options: argparse.Namespace, adapters: dict[str, str]) -> None:
        self._options = options
        chance = random.Random(7)
        self._prompts = {
            length: [chance.randrange(100, 4000) for _ in range(length)]
            for length in (_SHORT, options.long)
        }
        self._cold = Cold(
            str(options.base_model),
            adapters,
            dtype=options.dtype,
            max_context=options.long + options.tokens,
            max_sequences=max(options.streams),
        )
        for length in self._prompts:
            self._token_ms(length, 1, {"decoding": "cold"})  # from now on the prompt is reused

    def round(self) -> list[dict[str, Any]]:
        """The comparisons for each decoding and number of streams."""
        rows = []
        for streams in self._options.streams:
            for decoding in ("cold", "greedy"):
                for name, bar, length, how in self._cases(decoding):
                    plain_ms = self._token_ms(length, streams, {"decoding": decoding})
                    ms = self._token_ms(length, streams, {"decoding": decoding, **how})
                    rows.append(
                        {
                            "case": f"{decoding}, {name}, {streams} streams",
                            "bar": bar,
                            "plain_ms": plain_ms,
                            "ms": ms,
                            "ratio": plain_ms / ms,
                        }
                    )
        return rows

    def _cases(self, decoding: str) -> list[tuple[str, float | None, int, dict[str, Any]]]:
        """Name, bar, tokens of the prompt, and the fields of what is compared."""
        own = {"amateur_input_ids": self._prompts[_SHORT][::-1]}
        cases: list[tuple[str, float | None, int, dict[str, Any]]] = [
            ("sampled", 0.95, _SHORT, _SAMPLED),
            ("penalised", 0.95, self._options.long, _PENALISED),
        ]
        if decoding == "cold":
            cases += [
                ("amateur of another prompt", _AMATEUR, _SHORT, own),
                ("amateur of another adapter", _AMATEUR, _SHORT, {"amateur_lora_name": "second"}),
                ("beta by divergence", _RULE, _SHORT, {"beta_rule": "divergence"}),
                ("two adapters", None, _SHORT, {"lora_names": [*_ADAPTERS], "lora_name": None}),
            ]
        return cases

    def _token_ms(self, length: int, streams: int, fields: dict[str, Any]) -> float:
        """Milliseconds between tokens, the median of the streams."""
        count = self._options.tokens
        given = {"max_tokens": count, "ignore_eos": True, "stream": True, "lora_name": "first"}
        given = {name: value for name, value in (given | fields).items() if value is not None}
        requests = [
            self._cold.request(self._prompts[length], seed=seed, **given) for seed in range(streams)
        ]
        return statistics.median(
            1000 * (answer.latency_s - answer.ttft_s) / (count - 1)
            for _, answer in self._cold.each(requests)
        )


def main() -> int:
    options = parse_arguments()
    details = circumstances("benchmarks/sampling.py")
    with tempfile.TemporaryDirectory(prefix="cold-sampling-") as temporary:
        adapters = {name: Path(temporary) / name for name in _ADAPTERS}
        for adapter in adapters.values():
            make_adapter(options.base_model, adapter, rank=16)
        bench = Bench(options, {name: str(path) for name, path in adapters.items()})
        rounds = run_rounds(options.rounds, bench.round)
    ratios = {}
    for same in zip(*rounds, strict=True):
        case, bar = same[0]["case"], same[0]["bar"]
        ratios[case] = statistics.median(row["ratio"] for row in same)
        said = f"; the bar is {bar:.2f}" if bar else ""
        print(f"{case}: {ratios[case]:.3f} of the tokens/s without{said}")
    result = {**details, "ratios": ratios, "rounds": rounds}
    save_result(result, options.out / "sampling.json")
    return 0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--streams", type=int, nargs="+", default=[1, 8, 16])
    add("--long", type=int, default=1900, help="tokens of the long prompt")
    add("--tokens", type=int, default=48, help="tokens of an answer")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
