"""What a finished run leaves: adapter, metrics.json, loss.png and the model card."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from finetuning.checkpoint import trainable
from finetuning.training import Run

from equations.data import INSTRUCTION, SPLIT_SEED, Splits

SMOOTHING = 20
TEST_NAMES = {"held_out": "held out of MAWPS and ASDiv-A", "svamp_dev": "SVAMP"}

CARD = """\
---
library_name: peft
base_model: {base}
pipeline_tag: text-generation
license: apache-2.0
tags: [lora, math-word-problems]
---

# Word problems to equations: LoRA for {base}

Answers an arithmetic word problem, whose numbers are written number0, number1, …, with its
equation in prefix notation. It is the demo adapter of CoLD server: small, and clearly different
from its base. It is no tool for real arithmetic.

```text
user:      {instruction}
           There were number0 geese and number1 ducks in the marsh . How many birds were in the
           marsh ?
assistant: + number0 number1
```

## Accuracy

Greedy decoding, bfloat16 adapter as saved here, float32 arithmetic, up to 40 new tokens. Exact:
the equation of the data, token for token. Right value: any equation that gives the right answer,
such as the same sum in another order. In brackets the 95 % Wilson interval.

{accuracy}

- The base was asked the same way, without examples. Nothing but training tells it which symbols
  and names are wanted, so its figures show the task's form, not its ability.
- No question is both in training and in a test. The held-out items come from the same
  collections as the training items and have near twins there (the same story with other names),
  so their figure is kind; SVAMP was written to break such shortcuts.

## Training

| | |
|---|---|
{facts}

```bash
{command}
```

![Loss by step](loss.png)

The loss is the mean over the answer's tokens; prompts are not trained on. All figures are in
[metrics.json](metrics.json).

## Base model

SmolLM2-135M-Instruct (Apache-2.0), **dequantised from Q4_1** by `examples/prepare_model.py`. It is
not the full-precision checkpoint: the adapter was trained and measured on the dequantised weights,
so no figure here compares with a published one, and on other weights of the same name it may do
worse.

## Data and licences

MAWPS and ASDiv-A (training and held-out items) and SVAMP (test), as published with
Patel, Bhattamishra and Goyal, "Are NLP Models really able to Solve Simple Math Word Problems?",
NAACL 2021: <https://github.com/arkilpatel/SVAMP>, MIT. The adapter is under Apache-2.0.
"""


def save_adapter(model: Any, base_name: str, directory: Path) -> None:
    """Writes the adapter in bfloat16; the model is of no further use for training."""
    for parameter in trainable(model).values():
        parameter.data = parameter.data.to(torch.bfloat16)
    config = model.peft_config["default"]
    # The name only: a path of this machine would mean nothing to anyone else.
    config.base_model_name_or_path = base_name
    config.target_modules = sorted(config.target_modules)
    # LoRA changes no embedding, and looking for a change would ask a hub about the base.
    model.save_pretrained(directory, save_embedding_layers=False)


def write(
    directory: Path, base_name: str, run: Run, splits: Splits, accuracy: dict[str, Any]
) -> None:
    metrics = collect(base_name, run, splits, accuracy)
    text = json.dumps(metrics, indent=1) + "\n"
    (directory / "metrics.json").write_text(text, encoding="utf-8")
    draw(directory / "loss.png", run)
    (directory / "README.md").write_text(card(metrics), encoding="utf-8")


def collect(base_name: str, run: Run, splits: Splits, accuracy: dict[str, Any]) -> dict[str, Any]:
    return {
        "base_model": base_name,
        "settings": asdict(run.settings),
        "command": command(run),
        "trained_parameters": sum(value.numel() for value in trainable(run.model).values()),
        "seconds": round(run.seconds),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "split": {
            "seed": SPLIT_SEED,
            "train": len(splits.train),
            "held_out": len(splits.held_out),
            "svamp_dev": len(splits.svamp_dev),
        },
        "accuracy": accuracy,
        "test_loss": run.test_loss,
        "train_loss": [round(loss, 5) for loss in run.train_loss],
    }


def command(run: Run) -> str:
    """The command that repeats the run, paths left at their defaults."""
    settings = run.settings
    options = {
        "rank": settings.rank,
        "lora-alpha": settings.lora_alpha,
        "steps": settings.steps,
        "batch-size": settings.batch_size,
        "learning-rate": settings.learning_rate,
        "warmup-steps": settings.warmup_steps,
        "seed": settings.seed,
        "threads": torch.get_num_threads(),
    }
    words = [f"--{name} {value}" for name, value in options.items()]
    if settings.bf16:
        words.append("--bf16")
    half = len(words) // 2
    first, second = " ".join(words[:half]), " ".join(words[half:])
    return f"python examples/train_adapter.py {first} \\\n    {second}"


def card(metrics: dict[str, Any]) -> str:
    return CARD.format(
        base=metrics["base_model"],
        instruction=INSTRUCTION,
        accuracy=accuracy_table(metrics["accuracy"]),
        facts=facts_table(metrics),
        command=metrics["command"],
    )


def percent(part: dict[str, Any], key: str) -> str:
    low, high = part[f"{key}_interval"]
    return f"{part[key]:.1%} ({low:.1%}–{high:.1%})"  # noqa: RUF001 (a range)


def accuracy_table(accuracy: dict[str, Any]) -> str:
    rows = ["| Items | Model | Exact | Right value |", "|---|---|---|---|"]
    for test, title in TEST_NAMES.items():
        for variant in ("base", "adapter"):
            part = accuracy[variant][test]
            rows.append(
                f"| {part['items']} {title} | {variant} | {percent(part, 'exact')} "
                f"| {percent(part, 'value')} |"
            )
    return "\n".join(rows)


def facts_table(metrics: dict[str, Any]) -> str:
    settings, split = metrics["settings"], metrics["split"]
    seen = settings["steps"] * settings["batch_size"]
    arithmetic = "bfloat16 products (autocast)" if settings["bf16"] else "float32"
    facts = {
        "Adapter": f"rank {settings['rank']}, alpha {settings['lora_alpha']}, no dropout, all "
        f"linear layers but the output; {metrics['trained_parameters']:,} parameters",
        "Items": f"{split['train']:,} questions, each once; {seen / split['train']:.1f} epochs",
        "Steps": f"{settings['steps']} of {settings['batch_size']} problems",
        "Optimizer": f"AdamW, learning rate {settings['learning_rate']:g}, "
        f"{settings['warmup_steps']} steps of warm-up, cosine to zero, gradient norm at most 1",
        "Arithmetic": f"{arithmetic}, {metrics['threads']} CPU thread(s)",
        "Seed": f"{settings['seed']} (training), {split['seed']} (split)",
        "Time": f"{metrics['seconds'] / 60:.0f} minutes",
        "Versions": ", ".join(f"{name} {text}" for name, text in metrics["versions"].items()),
    }
    return "\n".join(f"| {name} | {text} |" for name, text in facts.items())


def draw(path: Path, run: Run) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    steps = range(1, len(run.train_loss) + 1)
    axes.plot(steps, run.train_loss, color="0.8", linewidth=0.8, label="training batch")
    axes.plot(
        steps, running_mean(run.train_loss), color="0.35", label=f"mean of {SMOOTHING} batches"
    )
    for key, (marker, color) in zip(TEST_NAMES, (("o", "C0"), ("s", "C1")), strict=True):
        at = [int(entry["step"]) for entry in run.test_loss]
        losses = [entry[key] for entry in run.test_loss]
        axes.plot(at, losses, marker=marker, color=color, label=TEST_NAMES[key])
    axes.set(xlabel="step", ylabel="loss per answer token", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def running_mean(values: list[float]) -> list[float]:
    windows = (values[max(0, end - SMOOTHING) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]
