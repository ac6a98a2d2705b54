"""vLLM as a resident arm: its own scheduler and compiled model, in process, decoding greedily.

    OMP_NUM_THREADS=2 python benchmarks/peers/vllm_arm.py MODEL DTYPE [ADAPTER]

Runs in a virtual environment of its own, see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

# Read when vLLM is imported.
os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}

try:
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest
except ModuleNotFoundError as error:
    sys.exit(f"error: no module {error.name!r}; `make bench` installs vLLM into .venv-peers")

from benchmarks.measure import Generated
from benchmarks.resident import answer_questions

STREAMS = 16


def main() -> None:
    asked = parse_arguments()
    options = {"enable_lora": True, "max_loras": 1, "max_lora_rank": 16} if asked.adapter else {}
    llm = LLM(
        asked.model,
        dtype=asked.dtype,
        max_model_len=asked.context,
        max_num_seqs=STREAMS,
        enable_prefix_caching=asked.reuse,
        **options,
    )
    lora = LoRARequest("benchmark", 1, asked.adapter) if asked.adapter else None
    numbers = itertools.count()

    def generate(prompts: Sequence[list[int]], tokens: int) -> list[Generated]:
        engine = llm.llm_engine
        sampling = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        names = [f"request {next(numbers)} " for _ in prompts]
        begun = time.perf_counter()
        for name, prompt in zip(names, prompts, strict=True):
            engine.add_request(name, {"prompt_token_ids": prompt}, sampling, lora_request=lora)
        token_ids: dict[str, list[int]] = {}
        times_s: dict[str, list[float]] = {}
        while engine.has_unfinished_requests():
            for output in engine.step():
                name = next(n for n in names if output.request_id.startswith(n))
                token_ids[name] = list(output.outputs[0].token_ids)
                times_s.setdefault(name, []).append(time.perf_counter() - begun)
        return [Generated(token_ids[n], times_s[n][0], times_s[n][-1]) for n in names]

    answer_questions({"greedy": generate})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("dtype")
    parser.add_argument("adapter", nargs="?")
    parser.add_argument("--context", type=int, default=512, help="tokens of a request, at most")
    parser.add_argument("--reuse", action="store_true", help="with its prefix caching")
    return parser.parse_args()


if __name__ == "__main__":
    main()
