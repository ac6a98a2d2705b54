"""The training loop."""

from __future__ import annotations

import math
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from finetuning import checkpoint
from finetuning.model import Example, answer_loss
from finetuning.progress import Progress

EVALUATION_BATCH = 20
# Batches are cut from pools of this many, sorted by length, which saves most of the padding.
POOL_BATCHES = 16


@dataclass(frozen=True)
class Settings:
    """Everything that decides the course of a run; a resumed one must have the same.

    Without decay of the learning rate the first steps do not depend on how many follow, so such a
    run may be resumed with more steps.
    """

    rank: int
    lora_alpha: int
    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    seed: int
    bf16: bool
    data_sha256: str
    decays: bool = True


@dataclass
class Run:
    settings: Settings
    model: Any
    pad_id: int
    train: list[Example]
    tests: dict[str, list[Example]]
    checkpoint_path: Path
    save_every: int
    evaluate_every: int
    snapshots: dict[int, Path] = field(default_factory=dict)  # of the adapter, by step
    step: int = 0
    seconds: float = 0.0
    train_loss: list[float] = field(default_factory=list)
    test_loss: list[dict[str, float]] = field(default_factory=list)


def learning_rate_at(step: int, settings: Settings) -> float:
    """Linear warm-up, then constant or half a cosine down to zero."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if not settings.decays:
        return settings.learning_rate
    span = max(1, settings.steps - settings.warmup_steps)
    return (
        settings.learning_rate
        * 0.5
        * (1 + math.cos(math.pi * (step - settings.warmup_steps) / span))
    )


def epoch_batches(examples: Sequence[Example], size: int, seed: int, epoch: int) -> list[list[int]]:
    """One epoch's batches of indexes; depends on nothing but the arguments."""
    generator = random.Random(f"{seed}:{epoch}")
    order = list(range(len(examples)))
    generator.shuffle(order)
    pool = size * POOL_BATCHES
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        part = sorted(order[start : start + pool], key=lambda index: examples[index].length)
        batches += [part[at : at + size] for at in range(0, len(part), size)]
    whole = [batch for batch in batches if len(batch) == size]
    generator.shuffle(whole)
    return whole


def batch_at(run: Run) -> list[Example]:
    settings = run.settings
    per_epoch = len(epoch_batches(run.train, settings.batch_size, settings.seed, 0))
    epoch, position = divmod(run.step, per_epoch)
    batches = epoch_batches(run.train, settings.batch_size, settings.seed, epoch)
    return [run.train[index] for index in batches[position]]


def mean_loss(run: Run, examples: list[Example]) -> float:
    """Mean loss of an answer token, without training."""
    ordered = sorted(examples, key=lambda example: example.length)
    total, tokens = 0.0, 0
    run.model.eval()
    with torch.inference_mode(), autocast(run.settings):
        for start in range(0, len(ordered), EVALUATION_BATCH):
            batch = ordered[start : start + EVALUATION_BATCH]
            loss, count = answer_loss(run.model, batch, run.pad_id)
            total, tokens = total + loss.item(), tokens + count
    run.model.train()
    return total / tokens


def autocast(settings: Settings) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16)


def evaluate(run: Run) -> None:
    losses = {name: mean_loss(run, examples) for name, examples in run.tests.items()}
    run.test_loss.append({"step": run.step, **losses})
    text = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    print(f"step {run.step}: loss on {text}", flush=True)


def train_step(run: Run, optimizer: torch.optim.Optimizer) -> int:
    """One update; returns the number of tokens read."""
    batch = batch_at(run)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(run.step, run.settings)
    with autocast(run.settings):
        loss, count = answer_loss(run.model, batch, run.pad_id)
    loss = loss / count
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss.item()} at step {run.step}")
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad()
    run.train_loss.append(loss.item())
    run.step += 1
    return sum(example.length for example in batch)


def save_checkpoint(run: Run, optimizer: torch.optim.Optimizer) -> None:
    state = {
        "settings": asdict(run.settings),
        "step": run.step,
        "seconds": run.seconds,
        "train_loss": run.train_loss,
        "test_loss": run.test_loss,
    }
    checkpoint.save(run.checkpoint_path, run.model, optimizer, state)


def save_snapshot(run: Run, directory: Path) -> None:
    """Writes the adapter as it is now, in float32."""
    run.model.save_pretrained(directory, save_embedding_layers=False)
    print(f"step {run.step}: adapter saved in {directory}", flush=True)


def resume(run: Run, optimizer: torch.optim.Optimizer) -> None:
    settings = asdict(run.settings)
    if not run.settings.decays:
        del settings["steps"]
    state = checkpoint.load(run.checkpoint_path, run.model, optimizer, settings)
    run.step, run.seconds = state["step"], state["seconds"]
    run.train_loss, run.test_loss = state["train_loss"], state["test_loss"]
    print(f"resumed at step {run.step}", flush=True)


def stop_requests() -> Callable[[], bool]:
    """Tells whether the user asked to stop; a second request ends the program at once."""
    requested: list[int] = []

    def request(signal_number: int, _frame: object) -> None:
        requested.append(signal_number)
        signal.signal(signal_number, signal.default_int_handler)
        print("\nstopping after this step", flush=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, request)
    return lambda: bool(requested)


def train(run: Run, resumed: bool) -> bool:
    """Trains to the last step; False when the user stopped it before."""
    parameters = list(checkpoint.trainable(run.model).values())
    optimizer = torch.optim.AdamW(parameters, lr=run.settings.learning_rate, weight_decay=0.0)
    if resumed:
        resume(run, optimizer)
    run.model.train()
    stopping = stop_requests()
    progress = Progress(run.settings.steps, run.step)
    if not run.test_loss:
        evaluate(run)
    while run.step < run.settings.steps:
        started = time.monotonic()
        tokens = train_step(run, optimizer)
        run.seconds += time.monotonic() - started
        progress.update(run.step, run.train_loss[-1], tokens, time.monotonic() - started)
        last = run.step == run.settings.steps
        if last or run.step % run.evaluate_every == 0:
            evaluate(run)
        if run.step in run.snapshots:
            save_snapshot(run, run.snapshots[run.step])
        if last or stopping() or run.step % run.save_every == 0:
            save_checkpoint(run, optimizer)
        if stopping() and not last:
            return False
    return True
