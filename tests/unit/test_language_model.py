"""The packed forward against plain transformers and PEFT, sequence by sequence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel

from cold_backend.adapters.adapter import check_fit, find_adapter_stamp, load_adapter
from cold_backend.adapters.loader import AdapterLoader
from cold_backend.adapters.store import AdapterStore
from cold_backend.contract import (
    BLOCK_TOKENS,
    COPY,
    NONE,
    AdapterChange,
    AdapterReport,
    Reader,
    blocks_for,
    pack_changes,
    table,
    unpack_reports,
)
from cold_backend.loading import checked_network
from cold_backend.models.batch import Batch
from cold_backend.models.checkpoint import context_limit, empty_model, load_config, load_model
from cold_backend.models.kv_cache import KVCache
from cold_backend.models.language_model import LanguageModel
from cold_backend.models.llama import is_lean
from cold_backend.models.lora import AdapterSet
from cold_kernels import load_ops
from tests.families import FAMILIES, VOCAB, make_adapter, make_model
from tests.steps import BOTH, SLOT_TOKENS, blocks, forward, pool_of, rows, several, slot_blocks

CPU = torch.device("cpu")
CONTEXT = SLOT_TOKENS
SLOTS = 4


def packed(
    path: Path,
    adapters: dict[str, Path] | None = None,
    readers: tuple[Reader, ...] = (Reader.EXPERT,),
    kernels: str = "native",
    room: int = 0,
    dtype: torch.dtype = torch.float32,
) -> LanguageModel:
    config = load_config(str(path))
    loaded = [load_adapter(name, str(p)) for name, p in (adapters or {}).items()]
    for adapter in loaded:
        check_fit(adapter, empty_model(config))
    model = load_model(str(path), config, dtype, CPU)
    adapters_of_model = AdapterSet(loaded, room, max_rank=6)
    network = checked_network(model, adapters_of_model, load_ops(kernels, CPU), CONTEXT)
    store = AdapterStore(AdapterLoader(empty_model(config), max_rank=6))
    return LanguageModel(network, readers, blocks=lambda _: pool_of(SLOTS), store=store)


def reference(
    path: Path, ids: list[int], adapter: Path | None = None, strength: float = 1.0
) -> torch.Tensor:
    return mixed_reference(path, ids, {adapter: strength} if adapter else {})


def mixed_reference(path: Path, ids: list[int], strengths: dict[Path, float]) -> torch.Tensor:
    """With several adapters, which PEFT adds up."""
    model = transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
    names = {f"adapter{number}": adapter for number, adapter in enumerate(strengths)}
    for number, (name, adapter) in enumerate(names.items()):
        if number:
            model.load_adapter(adapter, adapter_name=name)
        else:
            model = PeftModel.from_pretrained(model, adapter, adapter_name=name)
    if names:
        model.base_model.set_adapter([*names])
    for scaling in (getattr(module, "scaling", None) for module in model.modules()):
        if isinstance(scaling, dict):  # PEFT's; attention has a number of that name
            scaling.update({n: strengths[names[n]] * value for n, value in scaling.items()})
    with torch.inference_mode():
        return model.eval()(torch.tensor([ids])).logits[0]


def prompt(length: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(3, VOCAB, length).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_steps_equal_plain_forwards(family: str, tmp_path: Path) -> None:
    """Chunks of one prompt, a whole other prompt and decode steps share forwards."""
    base = make_model(family, tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter")
    expert = packed(base, {"one": adapter})
    first, second = prompt(40, 1), prompt(7, 2)

    forward(expert, first[:15], {"slot": 2, "length": 15, "adapter": 0, "emits": 0})
    (logits,) = forward(
        expert,
        first[15:39] + second,
        {"slot": 2, "start": 15, "length": 24, "adapter": 0},
        {"slot": 1, "length": 7},
    )
    (more,) = forward(
        expert,
        [5, first[39]],
        {"slot": 1, "start": 7, "length": 1},
        {"slot": 2, "start": 39, "length": 1, "adapter": 0},
    )

    adapted, plain = reference(base, first, adapter), reference(base, [*second, 5])
    torch.testing.assert_close(logits[0], adapted[38], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(logits[1], plain[6], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(more[0], plain[7], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(more[1], adapted[39], atol=2e-4, rtol=1e-4)
    assert (adapted[38] - reference(base, first)[38]).abs().max() > 0.1


@pytest.mark.parametrize("kernels", ["native", "reference"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_expert_and_base_in_one_forward(family: str, kernels: str, tmp_path: Path) -> None:
    """Rows of a token list for both, one for the expert alone, one for the base alone; twice."""
    base = make_model(family, tmp_path / "base")
    adapters = {"one": make_adapter(base, tmp_path / "adapter")}
    both = packed(base, adapters, (Reader.EXPERT, Reader.BASE), kernels)
    expert, amateur = packed(base, adapters), packed(base, readers=(Reader.BASE,))

    def step(start: int, length: int, seed: int) -> None:
        common = {"start": start, "length": length, "adapter": 0}
        amateurs = {"adapter": NONE, "reader": Reader.BASE}
        experts = [common | {"slot": slot} for slot in (3, 0)]
        columns = [*experts, *(common | {"slot": slot} | amateurs for slot in (3, 1))]
        of_step = rows(*columns), blocks(*columns)
        ids = prompt(3 * length, seed)
        tokens = np.array([*ids[: 2 * length], *ids[:length], *ids[2 * length :]])
        together = both.forward(tokens, *of_step)
        alone = [model.forward(tokens, *of_step) for model in (expert, amateur)]
        assert [len(logits) for logits in alone] == [2, 2]
        torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)
        assert (together[0] - together[2]).abs().max() > 0.1

    step(0, 9, 1)
    step(9, 1, 2)


@pytest.mark.parametrize(
    ("family", "kernels"), [("llama", "native"), ("llama", "reference"), ("gpt2", "native")]
)
def test_an_adapter_is_put_into_a_running_model(family: str, kernels: str, tmp_path: Path) -> None:
    """Beside one that stays, in the place of another; one that breaks is reported."""
    base = make_model(family, tmp_path / "base")
    paths = {
        name: make_adapter(base, tmp_path / name, seed=seed, r=seed)
        for name, seed in (("fixed", 2), ("first", 3), ("second", 5))
    }
    model = packed(base, {"fixed": paths["fixed"]}, kernels=kernels, room=2)
    ids = prompt(9, 3)

    def logits() -> torch.Tensor:
        places = ({"slot": i + 1, "length": 9, "adapter": i} for i in (0, 2, -1))
        return forward(model, ids * 3, *places)[0]

    def load(name: str) -> AdapterReport:
        path = str(paths[name])
        change = AdapterChange(2, name, path, find_adapter_stamp(name, path))
        packed_changes = pack_changes([change])
        for _ in range(1000):
            reports = unpack_reports(model.load_adapters(packed_changes, alone=True))
            if reports:
                (report,) = reports
                return report
            packed_changes = pack_changes([])
        raise TimeoutError

    for name in ("first", "second"):
        assert not load(name).problem
        for row, adapter in enumerate((paths["fixed"], paths[name], None)):
            expected = reference(base, ids, adapter)[-1]
            torch.testing.assert_close(logits()[row], expected, atol=2e-4, rtol=1e-4)
    good = logits()
    (paths["second"] / "adapter_model.safetensors").write_bytes(b"broken")
    broken = load("second")
    assert "adapter second: adapter_model.safetensors: the header is" in broken.problem
    assert not broken.passing
    assert torch.equal(logits()[[0, 2]], good[[0, 2]])
    assert not load("first").problem
    assert logits().isfinite().all()
    assert (logits()[1] - good[1]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("family", "kernels", "dtype"),
    [
        ("llama", "native", torch.float32),
        ("llama", "native", torch.bfloat16),
        ("llama", "reference", torch.float32),
        ("gpt2", "native", torch.float32),
    ],
)
def test_copied_blocks_go_on_like_the_originals(
    family: str, kernels: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """All of a context, then those from a token on, over blocks that held something else."""
    base = make_model(family, tmp_path / "base")
    adapters = {"one": make_adapter(base, tmp_path / "adapter")}
    model = packed(base, adapters, (Reader.EXPERT, Reader.BASE), kernels, dtype=dtype)

    def feed(ids: list[int], start: int, *slots: int) -> list[torch.Tensor]:
        """Expert's and base's logits by slot."""
        length = len(ids) // len(slots)
        columns = {"start": start, "length": length, "adapter": 0}
        return forward(model, ids, *(columns | {"slot": s} for s in slots), readers=BOTH)

    def copy(source: int, target: int, start: int, end: int, *readers: Reader) -> None:
        part = slice(start // BLOCK_TOKENS, blocks_for(end))
        copies = []
        for reader in readers:
            pairs = zip(
                *(slot_blocks(slot, reader)[part].tolist() for slot in (source, target)),
                strict=True,
            )
            copies += [{"reader": reader, "source": s, "target": t} for s, t in pairs]
        model.copy_blocks(table(COPY, copies))

    feed(prompt(3 * 45, 4), 0, 0, 2, 3)
    feed(prompt(21, 1), 0, 1)
    copy(1, 3, 0, 21, *BOTH)
    for logits in feed([7, 8, 7, 8], 21, 1, 3):
        torch.testing.assert_close(logits[0], logits[1])
    feed(prompt(2 * 19, 5), 23, 1, 3)
    copy(3, 1, 23, 42, Reader.EXPERT)
    expert, base_ = feed([9, 9], 42, 1, 3)
    torch.testing.assert_close(expert[0], expert[1])
    assert (base_[0] - base_[1]).abs().max() > 0.1


def test_which_models_run_lean(tmp_path: Path) -> None:
    lean = {
        family
        for family in FAMILIES
        if is_lean(load_config(str(make_model(family, tmp_path / family))), AdapterSet(), CONTEXT)
    }
    # This Mistral's sliding window is shorter than the context.
    assert lean == {"llama", "qwen2", "qwen3"}


ROPES: list[dict[str, Any]] = [
    {"rope_type": "linear", "factor": 2.0},
    {"type": "linear", "factor": 3.0},
    {"type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    {
        "rope_type": "longrope",
        "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
        "long_factor": [2.0] * 8,
        "original_max_position_embeddings": 96,
    },
]


@pytest.mark.parametrize("family", ["llama", "gemma"])
@pytest.mark.parametrize("rope", ROPES, ids=lambda rope: f"{next(iter(rope.values()))}")
def test_scaled_positions(rope: dict[str, Any], family: str, tmp_path: Path) -> None:
    base = make_model(family, tmp_path / "base", rope_scaling=rope)
    assert context_limit(load_config(str(base))) >= CONTEXT
    ids = prompt(90, 1)
    model = packed(base)
    forward(model, ids[:50], {"length": 50})
    (logits,) = forward(model, ids[50:], {"start": 50, "length": 40})
    torch.testing.assert_close(logits[0], reference(base, ids)[-1], atol=2e-4, rtol=1e-4)


ADAPTER_KINDS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True, "lora_alpha": 8},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 32}},
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "embedding": {"target_modules": ["embed_tokens", "v_proj"]},
    "regex": {"target_modules": r".*\.layers\.1\..*(q|v)_proj"},
    "first layer": {"target_modules": ["o_proj"], "layers_to_transform": [0]},
    "wide": {"r": 40},
}


# Embeddings and logits that are scaled or squashed, tied heads, learned positions.
OTHERS = {
    "gemma": ["embedding", "head"],
    "gemma3_text": ["embedding"],
    "gemma2": ["head"],
    "granite": ["embedding", "head"],
    "cohere": ["embedding", "head"],
    "gpt2": ["gpt2"],
}


@pytest.mark.parametrize(
    ("family", "kind"),
    [("llama", kind) for kind in ADAPTER_KINDS]
    + [(family, kind) for family, kinds in OTHERS.items() for kind in kinds],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # PEFT on tied or saved embeddings
def test_adapters_of_every_form_side_by_side(family: str, kind: str, tmp_path: Path) -> None:
    scaled: dict[str, Any] = {
        "embedding_multiplier": 3.0,
        "logits_scaling": 0.5,
        "logit_scale": 0.25,
    }
    base = make_model(family, tmp_path / "base", **scaled)
    plain = make_adapter(base, tmp_path / "plain", r=3)
    options = {"target_modules": ["wte", "wpe"]} if kind == "gpt2" else ADAPTER_KINDS[kind]
    special = make_adapter(base, tmp_path / "special", seed=5, **options)
    expert = packed(base, {"plain": plain, "special": special})
    ids = prompt(9, 3)

    strengths = (1.0, 1.0, 1.0, 0.25, 3.0, 0.0)
    chosen = (0, 1, NONE, 0, 1, 1)
    (logits,) = forward(
        expert,
        ids * 3,
        *(
            {"slot": i + 1, "length": 9, "adapter": chosen[i], "strength": strengths[i]}
            for i in range(3)
        ),
    )
    (more,) = forward(
        expert,
        ids * 3,
        *(
            {"slot": i - 2, "length": 9, "adapter": chosen[i], "strength": strengths[i]}
            for i in range(3, 6)
        ),
    )

    adapters = {0: plain, 1: special, NONE: None}
    for row, adapter, strength in zip([*logits, *more], chosen, strengths, strict=True):
        expected = reference(base, ids, adapters[adapter], strength)[-1]
        torch.testing.assert_close(row, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "kernels", "kind"),
    [
        ("llama", "native", "head"),
        ("llama", "reference", "head"),
        ("llama", "native", "embedding"),
        ("gemma", "native", "embedding"),
        ("gpt2", "native", "gpt2"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # PEFT on tied or saved embeddings
def test_several_adapters_of_a_row(family: str, kernels: str, kind: str, tmp_path: Path) -> None:
    """What PEFT gives with several active adapters, beside rows with one and with none."""
    base = make_model(family, tmp_path / "base")
    options = {"target_modules": ["wte", "wpe"]} if kind == "gpt2" else ADAPTER_KINDS[kind]
    paths = {
        "one": make_adapter(base, tmp_path / "one", r=3),
        "two": make_adapter(base, tmp_path / "two", seed=5, **options),
        "three": make_adapter(base, tmp_path / "three", seed=6),
    }
    expert, ids = packed(base, paths, kernels=kernels), prompt(9, 3)
    used = [((0, 0.5), (1, 1.5)), ((2, 1.0),), (), ((2, 0.25), (0, 1.0), (1, 0.75))]
    (logits,) = forward(
        expert,
        ids * len(used),
        *({"slot": i, "length": 9, **several(*mixture)} for i, mixture in enumerate(used)),
    )
    adapters = [*paths.values()]
    for row, mixture in zip(logits, used, strict=True):
        strengths = {adapters[index]: strength for index, strength in mixture}
        expected = mixed_reference(base, ids, strengths)[-1]
        torch.testing.assert_close(row, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "kernels", "kind"),
    [
        ("llama", "native", "head"),
        ("llama", "reference", "head"),
        ("llama", "native", "embedding"),
        ("gemma", "native", "head"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # PEFT on tied or saved embeddings
def test_an_adapter_in_several_strengths(
    family: str, kernels: str, kind: str, tmp_path: Path
) -> None:
    """A strength is the adapter's scale times as much, and 0 is no adapter."""
    base = make_model(family, tmp_path / "base")
    path = make_adapter(base, tmp_path / "adapter", **ADAPTER_KINDS[kind])
    adapter = load_adapter("plain", str(path))
    doubled = {path: replace(pair, scale=2 * pair.scale) for path, pair in adapter.pairs.items()}
    adapters = AdapterSet([adapter, replace(adapter, pairs=doubled)])
    model = load_model(str(base), load_config(str(base)), torch.float32, CPU)
    network = checked_network(model, adapters, load_ops(kernels, CPU), CONTEXT)
    ids, used = prompt(7, 4), [(0, 1.0), (0, 2.0), (1, 1.0), (0, 0.0), (NONE, 2.0), (NONE, 1.0)]

    of_step = rows(
        *({"length": 7, "adapter": index, "strength": strength} for index, strength in used)
    )
    of_rows = np.arange(len(used), dtype=np.int32)
    batch = Batch.of(np.array(ids * len(used)), of_step, of_rows, CPU)
    with torch.inference_mode():
        plain, twice, doubled_scale, off, base_strong, base_plain = network.forward(
            batch, KVCache(len(used))
        )

    torch.testing.assert_close(twice, doubled_scale)
    torch.testing.assert_close(off, base_plain)
    assert torch.equal(base_strong, base_plain)
    for other in (plain, base_plain):
        assert not torch.allclose(twice, other, atol=1e-2)
