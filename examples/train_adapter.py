"""Trains the example adapter: word problem to prefix equation, LoRA on a frozen base.

    python examples/train_adapter.py --bf16

Writes the adapter, metrics.json, loss.png and a model card to --out. Ctrl-C stops after the
step and keeps a checkpoint; the same command with --resume goes on exactly where it stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Everything needed is on this machine; set before transformers and peft are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from equations import data, report
from equations.evaluation import measure
from equations.prompts import encode
from finetuning import checkpoint
from finetuning.model import ModelError, add_adapter, load_adapter, load_base
from finetuning.training import Run, Settings, train

HERE = Path(__file__).resolve().parent
BASE_MODEL = Path("~/.cache/cold-server/SmolLM2-135M-Instruct")


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def rate(text: str) -> float:
    value = float(text)
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 1")
    return value


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--base-model", type=Path, default=BASE_MODEL, help="directory of prepare_model.py")
    add("--data", type=Path, default=HERE / "data/word_problems", help="train.csv and dev.csv")
    add("--out", type=Path, default=HERE / "adapters/equations", help="adapter directory")
    add("--rank", type=positive, default=8, help="LoRA rank")
    add("--lora-alpha", type=positive, default=16, help="LoRA alpha")
    add("--steps", type=positive, default=500, help="optimizer steps")
    add("--batch-size", type=positive, default=8, help="problems in a step")
    add("--learning-rate", type=rate, default=5e-4, help="after warm-up; cosine to zero")
    add("--warmup-steps", type=positive, default=30, help="linear warm-up")
    add("--seed", type=int, default=0, help="of the adapter's start and the data order")
    add("--threads", type=positive, default=1, help="CPU threads")
    add("--bf16", action="store_true", help="bfloat16 products: faster where the CPU has them")
    add("--save-every", type=positive, default=50, help="steps between checkpoints")
    add("--evaluate-every", type=positive, default=100, help="steps between loss measurements")
    add("--loss-items", type=positive, default=100, help="items of each loss measurement")
    add("--accuracy-items", type=positive, default=300, help="items of each accuracy, at most")
    add("--resume", action="store_true", help="go on from the checkpoint in --out")
    return parser.parse_args()


def make_run(args: argparse.Namespace, splits: data.Splits) -> Run:
    settings = Settings(
        rank=args.rank,
        lora_alpha=args.lora_alpha,
        steps=args.steps,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        warmup_steps=args.warmup_steps,
        seed=args.seed,
        bf16=args.bf16,
        data_sha256=data.sha256_of_data(args.data),
    )
    torch.manual_seed(args.seed)
    base, tokenizer = load_base(args.base_model)
    tests = {"held_out": splits.held_out, "svamp_dev": splits.svamp_dev}
    return Run(
        settings=settings,
        model=add_adapter(base, args.rank, args.lora_alpha),
        pad_id=tokenizer.pad_token_id,
        train=encode(tokenizer, splits.train),
        tests={
            name: encode(tokenizer, data.sample(problems, args.loss_items))
            for name, problems in tests.items()
        },
        checkpoint_path=args.out / checkpoint.FILE_NAME,
        save_every=args.save_every,
        evaluate_every=args.evaluate_every,
    )


def finish(args: argparse.Namespace, run: Run, splits: data.Splits) -> None:
    """Saves the adapter, then measures what was saved on a newly loaded base."""
    report.save_adapter(run.model, args.base_model.name, args.out)
    base, tokenizer = load_base(args.base_model)
    model = load_adapter(base, args.out)
    accuracy = measure(model, tokenizer, splits, args.accuracy_items)
    report.write(args.out, args.base_model.name, run, splits, accuracy)
    run.checkpoint_path.unlink()


def execute(args: argparse.Namespace) -> int:
    torch.set_num_threads(args.threads)
    splits = data.load_splits(args.data)
    if args.batch_size > len(splits.train):
        raise data.DataError(f"--batch-size is above the {len(splits.train)} training problems")
    path = args.out / checkpoint.FILE_NAME
    if path.exists() and not args.resume:
        raise checkpoint.CheckpointError(f"{path} exists: use --resume, or remove it")
    if args.resume and not path.exists():
        raise checkpoint.CheckpointError(f"nothing to resume: there is no {path}")
    args.out.mkdir(parents=True, exist_ok=True)
    run = make_run(args, splits)
    if not train(run, args.resume):
        print(f"stopped at step {run.step}; the same command with --resume goes on")
        return 130
    finish(args, run, splits)
    print(f"done: {args.out}")
    return 0


def main() -> int:
    args = parse_arguments()
    args.base_model = args.base_model.expanduser()
    try:
        return execute(args)
    except (data.DataError, ModelError, checkpoint.CheckpointError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.strerror}: {error.filename}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nerror: interrupted", file=sys.stderr)
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
