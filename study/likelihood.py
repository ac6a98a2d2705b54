"""How probable CoLD makes right answers, by beta: whether an adapter falls short, without decoding.

    PYTHONPATH=examples python -m study.likelihood --task chain --adapter RUN/0030

Reads the held-out answers of the training collections once, with both models.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

# Everything needed is on this machine; set before transformers and peft are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from finetuning.model import IGNORED, Example, example_of, pad_left
from torch import Tensor

from study import items
from study.search import BASE_MODEL, adapter_name
from study.tree import Pair

BETAS = [round(-0.5 + 0.05 * number, 2) for number in range(51)]  # to 2


@torch.inference_mode()
def losses(pair: Pair, examples: Sequence[Example], batch: int) -> list[float]:
    """Mean loss of an answer token at each of BETAS, over the whole vocabulary: without alpha."""
    sums, count = torch.zeros(len(BETAS)), 0
    for start in range(0, len(examples), batch):
        for expert, base, gold in answers(pair, examples[start : start + batch]):
            for place, beta in enumerate(BETAS):
                score = expert + beta * (expert - base)
                sums[place] += (score.logsumexp(-1) - score.gather(-1, gold[:, None])[:, 0]).sum()
            count += len(gold)
    mean: list[float] = (sums / count).tolist()
    return mean


def answers(pair: Pair, examples: Sequence[Example]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of each example expert and base logits [n, V] of its answer's tokens [n]."""
    rows = [example.prompt + example.answer for example in examples]
    labels = pad_left([example.answer for example in examples], IGNORED)
    read = [
        network.read(rows, pair.tokenizer.pad_token_id, labels.shape[1])
        for network in (pair.expert, pair.base)
    ]
    for expert, base, gold in zip(*read, labels, strict=True):
        kept = gold != IGNORED
        yield expert[kept].float(), base[kept].float(), gold[kept]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--task", required=True)
    add("--base-model", type=Path, default=BASE_MODEL)
    add("--adapter", type=Path, required=True)
    add("--scale", type=float, default=1.0, help="factor on the adapter's weights")
    add("--data", type=Path, default=Path("study/work/data"))
    add("--out", type=Path, default=Path("study/results/likelihood"))
    add("--items", type=int, default=60, help="at most so many")
    add("--batch", type=int, default=5)
    add("--threads", type=int, default=1)
    add("--bf16", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    path: Path = args.out / f"{adapter_name(args.adapter, args.scale)}-{args.task}.json"
    if path.exists():
        print(f"{path}: complete")
        return 0
    try:
        read = items.read(args.data / args.task / "held_out.jsonl")[: args.items]
    except items.DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    pair = Pair(args.base_model.expanduser(), args.adapter, args.scale, args.bf16)
    examples = [example_of(pair.tokenizer, item["prompt"], item["completion"]) for item in read]
    found = losses(pair, examples, args.batch)
    best = BETAS[min(range(len(BETAS)), key=found.__getitem__)]
    args.out.mkdir(parents=True, exist_ok=True)
    record = {
        "task": args.task,
        "adapter": args.adapter.parent.name,
        "steps": int(args.adapter.name),
        "scale": args.scale,
        "items": len(examples),
        "best": best,
        "losses": dict(zip(map(str, BETAS), (round(loss, 5) for loss in found), strict=True)),
    }
    path.write_text(json.dumps(record) + "\n")
    print(
        f"{path.name}: best beta {best}, loss {min(found):.4f}, at 0 {found[BETAS.index(0.0)]:.4f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
