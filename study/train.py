"""Trains LoRA adapters on a task: one run, a snapshot at each number of steps.

    PYTHONPATH=examples python -m study.train --task chain --snapshots 15 30 60 120 240

The learning rate is constant after warm-up, so each snapshot is what a run of so many steps would
have given. Ctrl-C stops after the step; the same command with --resume goes on, also with more
snapshots than before.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

# Everything needed is on this machine; set before transformers and peft are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from finetuning import checkpoint
from finetuning.model import Example, ModelError, add_adapter, example_of, load_base
from finetuning.training import Run, Settings, train

from study import items

BASE_MODEL = Path("~/.cache/cold-server/SmolLM2-135M-Instruct")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--task", required=True, help="name of a folder in --data")
    add("--base-model", type=Path, default=BASE_MODEL, help="Hugging Face directory")
    add("--data", type=Path, default=Path("study/work/data"), help="folder of study.tasks")
    add("--out", type=Path, default=Path("study/work/adapters"), help="folder of the adapters")
    add("--snapshots", type=int, nargs="+", default=[30, 120, 480], help="steps to save after")
    add("--rank", type=int, default=16, help="LoRA rank")
    add("--lora-alpha", type=int, default=32, help="LoRA alpha")
    add("--batch-size", type=int, default=8, help="items in a step")
    add("--learning-rate", type=float, default=3e-4, help="after warm-up")
    add("--warmup-steps", type=int, default=10, help="linear warm-up")
    add("--seed", type=int, default=0, help="of the adapter's start and the order of the items")
    add("--threads", type=int, default=1, help="CPU threads")
    add("--fp32", action="store_true", help="float32 products instead of bfloat16")
    add("--save-every", type=int, default=20, help="steps between checkpoints")
    add("--evaluate-every", type=int, default=60, help="steps between loss measurements")
    add("--loss-items", type=int, default=60, help="items of each loss measurement")
    add("--resume", action="store_true", help="go on from the checkpoint")
    return parser.parse_args()


def make_run(args: argparse.Namespace, directory: Path) -> Run:
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    base, tokenizer = load_base(args.base_model.expanduser())
    source = args.data / args.task

    def examples(name: str) -> list[Example]:
        read = items.read(source / f"{name}.jsonl")
        return [example_of(tokenizer, item["prompt"], item["completion"]) for item in read]

    return Run(
        settings=Settings(
            rank=args.rank,
            lora_alpha=args.lora_alpha,
            steps=max(args.snapshots),
            batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            warmup_steps=args.warmup_steps,
            seed=args.seed,
            bf16=not args.fp32,
            data_sha256=items.sha256(source / "train.jsonl"),
            decays=False,
        ),
        model=add_adapter(base, args.rank, args.lora_alpha),
        pad_id=tokenizer.pad_token_id,
        train=examples("train"),
        tests={"held_out": examples("held_out")[: args.loss_items]},
        checkpoint_path=directory / checkpoint.FILE_NAME,
        save_every=args.save_every,
        evaluate_every=args.evaluate_every,
        snapshots={step: directory / f"{step:04}" for step in args.snapshots},
    )


def run_name(args: argparse.Namespace) -> str:
    """Folder of a run: what it was trained on and what decides its course."""
    base = args.base_model.name
    return f"{args.task}-{base}-r{args.rank}-lr{args.learning_rate:g}-s{args.seed}"


def write_metrics(run: Run, directory: Path) -> None:
    metrics = {
        "settings": asdict(run.settings),
        "threads": torch.get_num_threads(),
        "seconds": round(run.seconds),
        "held_out_loss": run.test_loss,
        "train_loss": [round(loss, 5) for loss in run.train_loss],
    }
    (directory / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")


def main() -> int:
    args = parse_arguments()
    directory = args.out / run_name(args)
    path = directory / checkpoint.FILE_NAME
    try:
        if path.exists() != args.resume:
            raise checkpoint.CheckpointError(f"{path}: use --resume exactly if it exists")
        directory.mkdir(parents=True, exist_ok=True)
        run = make_run(args, directory)
        done = train(run, args.resume)
    except (items.DataError, ModelError, checkpoint.CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_metrics(run, directory)
    print(f"{'done' if done else 'stopped'} at step {run.step}: {directory}")
    return 0 if done else 130


if __name__ == "__main__":
    sys.exit(main())
