"""Small models of all families with random options, and adapters for them: right or refused.

Right is what transformers and PEFT compute for one text alone, in float32; a refusal is one line.
"""

from __future__ import annotations

import random
import shutil
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from cold_backend.adapters.adapter import find_adapter_stamp
from cold_backend.config import Settings
from cold_backend.contract import (
    NONE,
    AdapterChange,
    pack_changes,
    unpack_reports,
)
from cold_backend.errors import ConfigError
from cold_backend.loading import load_fused_lm, load_store
from cold_backend.models.language_model import LanguageModel
from tests.fuzz.tiny_models import VOCAB, NotBuiltError, families, make_tiny, random_options
from tests.fuzz.verdict import WrongVerdictError, expect
from tests.steps import BOTH, forward

_CONTEXT = 64
_CLOSE = 1e-3  # of the largest logit
_LONGEST_REFUSAL = 600


def fuzz_models(
    folder: Path, count: int, seed: int, among: list[str] | None = None
) -> Counter[str]:
    """Makes models, loads them as a server does and feeds them; outcomes by number of models.

    Args:
        folder: for the models.
        count: how many; the first of all have no options but small sizes, a family each.
        seed: of the first.
        among: families; all by default.

    Raises:
        WrongVerdictError: a model was neither refused in one line nor computed right.
    """
    names = among or families()
    outcomes: Counter[str] = Counter()
    for number in range(seed, seed + count):
        chance = random.Random(number)
        family = names[number % len(names)]
        options = random_options(chance) if number >= len(names) else {}
        shutil.rmtree(folder, ignore_errors=True)
        try:
            outcomes[_one(family, folder, chance, options)] += 1
        except WrongVerdictError as error:
            raise WrongVerdictError(f"model {number}, {family} {options}: {error}") from error
    return outcomes


def _one(family: str, folder: Path, chance: random.Random, options: dict[str, Any]) -> str:
    base, adapter = folder / "base", folder / "adapters" / "one"
    try:
        make_tiny(family, base, chance.randrange(1000), options)
    except NotBuiltError:
        return "not built"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT on tied or saved embeddings
        later = chance.random() < 0.5
        tuned = _make_adapter(base, adapter, chance, whole=not later)
    plain = _load(base)
    if plain is None:
        return "refused"
    texts = [[chance.randrange(3, VOCAB) for _ in range(length)] for length in (41, 24)]
    own: Any = AutoModelForCausalLM.from_pretrained(base, trust_remote_code=False)
    _compare(plain, texts, [_logits(own, text) for text in texts], -1)
    if tuned is None:
        return "right"
    adapted = _load(base, adapter, later=later)
    if adapted is None:
        return "right, adapter refused"
    _compare(adapted, texts, [_logits(own, texts[0]), _logits(tuned, texts[1])], 0)
    return "right with adapter"


def _load(base: Path, adapter: Path | None = None, *, later: bool = False) -> LanguageModel | None:
    """None if it is refused; with an adapter at index 0, put in after the start or before."""
    settings = Settings(
        base_model=str(base),
        adapters={"one": str(adapter)} if adapter and not later else {},
        adapters_dir=str(adapter.parent) if adapter and later else "",
        max_context=_CONTEXT,
        max_sequences=3,
    )
    try:
        model = load_fused_lm(settings, load_store(settings))
        if adapter and later:
            _put_in(model, adapter)
    except ConfigError as error:
        text = str(error)
        expect(text.isprintable() and len(text) < _LONGEST_REFUSAL, text)
        return None
    return model


def _put_in(model: LanguageModel, adapter: Path) -> None:
    """At index 0, as the engine has it done between steps."""
    change = AdapterChange(0, "one", str(adapter), find_adapter_stamp("one", str(adapter)))
    changes = pack_changes([change])
    for _ in range(1000):
        for report in unpack_reports(model.load_adapters(changes, alone=True)):
            if report.problem:
                raise ConfigError(report.problem)
            return
        changes = pack_changes([])
    raise TimeoutError


def _compare(
    model: LanguageModel, texts: list[list[int]], expected: list[Tensor], adapter: int
) -> None:
    """Feeds two texts in pieces, the second with the adapter, as a server may."""
    first, second = texts
    steps = [
        ([(0, 2, 0, 15)], first[:15]),
        ([(0, 2, 15, 25), (1, 1, 0, 7)], first[15:40] + second[:7]),
        ([(1, 1, 7, 1), (0, 2, 40, 1)], [second[7], first[40]]),
        ([(1, 1, 8, 16), (0, 0, 0, 3)], second[8:] + first[:3]),
        ([(1, 2, 0, 9), (0, 1, 0, 20)], second[:9] + first[:20]),
    ]
    for pieces, tokens in steps:
        columns = [
            {"slot": slot, "start": start, "length": n, "adapter": adapter if text else NONE}
            for text, slot, start, n in pieces
        ]
        expert, base = forward(model, tokens, *columns, readers=BOTH, slot_tokens=_CONTEXT)
        for at, (text, _, start, length) in enumerate(pieces):
            own = expected[text][start + length - 1]
            _check_close(expert[at], own, f"text {text} at {start + length}, adapter {adapter}")
            if text == 0:
                _check_close(base[at], own, f"base's text 0 at {start + length}")


def _check_close(packed: Tensor, own: Tensor, what: str) -> None:
    error = float((packed - own).abs().max() / own.abs().max())
    expect(error < _CLOSE, f"{what}: off by {error:.2g}")


def _logits(model: Any, ids: list[int]) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model.eval()(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits


def _make_adapter(base: Path, path: Path, chance: random.Random, *, whole: bool) -> Any:
    """Writes a random adapter; returns the model with it, None if PEFT cannot make one.

    Not what PEFT reads back: of some models it loses layers that it renames while reading.

    Args:
        whole: it may change embeddings and the output layer.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(base, trust_remote_code=False)
    kinds = nn.Linear | Conv1D | (nn.Embedding if whole and chance.random() < 0.5 else nn.Linear)
    head = None if whole else model.get_output_embeddings()
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, kinds) and module is not head
    ]
    if not layers:
        return None
    chosen = (
        layers if chance.random() < 0.4 else chance.sample(layers, chance.randint(1, len(layers)))
    )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=chance.choice([1, 2, 5, 8]),
        lora_alpha=chance.choice([1, 8, 32]),
        use_rslora=chance.random() < 0.3,
        target_modules=chosen,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    try:
        tuned = get_peft_model(model, config)
    except (ValueError, TypeError, AttributeError, RuntimeError, NotImplementedError):
        return None
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.2)
    tuned.save_pretrained(path)
    return tuned
