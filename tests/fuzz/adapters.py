"""Adapter directories with something wrong in them, and what must come of each."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cold_backend.adapters.adapter import Adapter, check_fit, load_adapter
from cold_backend.adapters.defaults import FILE, AdapterDefaults, read_defaults
from cold_backend.adapters.loader import AdapterLoader
from cold_backend.errors import ConfigError
from tests.fuzz.verdict import expect

T = TypeVar("T")
_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_ODD: list[Any] = [
    *(None, True, 0, -1, 1, 2**31, 10**40, 0.5, float("nan"), float("inf"), 1e300, "", "x", "LORA"),
    *([], ["x"], {}, {"x": 1}, {"(a+)+$": 1}, {"*": 1}, {"q_proj": 4}, {"q_proj": float("nan")}),
    *({".*.*.*.*.*x": 1}, {"": "y"}, [[]], "https://example.invalid/x", "../../etc"),
]
_OPTIONS = [
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "bias"),
    *("peft_type", "auto_mapping", "runtime_config", "base_model_name_or_path", "revision"),
    *("modules_to_save", "target_modules", "init_lora_weights", "trust_remote_code", "eva_config"),
    *("arrow_config", "loftq_config", "layer_replication", "tokenizer_name_or_path", "unknown"),
]
_DTYPES = [torch.int8, torch.int64, torch.bool, torch.float64, torch.float8_e4m3fn, torch.bfloat16]


def fuzz_adapters(
    good: Path, model: nn.Module, scratch: Path, count: int, seed: int
) -> Counter[str]:
    """Changes copies of a good adapter and loads them; outcomes by number of directories.

    Raises:
        WrongVerdictError: an adapter was neither refused by name nor loaded right.
    """
    chance = random.Random(seed)
    weights = load_file(good / _WEIGHTS)
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(good, scratch)
        change = chance.choice(_CHANGES)
        change(scratch, weights, chance)
        outcomes[_load(scratch, model)] += 1
    return outcomes


def _load(path: Path, model: nn.Module) -> str:
    loader = AdapterLoader(model, max_rank=100)
    mapped = _verdict(lambda: _mapped(path, model))
    read = _verdict(lambda: loader.load("mine", str(path)))
    expect(isinstance(mapped, str) == isinstance(read, str), (mapped, read))
    if isinstance(read, Adapter):
        _check_loaded(read, path)
    if isinstance(mapped, Adapter):
        _check_loaded(mapped, path)
    defaults = _verdict(lambda: read_defaults(path, "mine"))
    if isinstance(defaults, AdapterDefaults):
        expect(0 < defaults.alpha <= 1 and 0 <= defaults.beta <= 1000, defaults)
        expect(0 <= defaults.lora_scale <= 8, defaults)
    return "refused" if isinstance(mapped, str) or isinstance(defaults, str) else "loaded"


def _mapped(path: Path, model: nn.Module) -> Adapter:
    """As it is read that stays from the start to the end."""
    adapter = load_adapter("mine", str(path))
    check_fit(adapter, model)
    return adapter


def _verdict(read: Callable[[], T]) -> T | str:
    """What comes of a read, or the error."""
    try:
        return read()
    except ConfigError as error:
        text = str(error)
        expect(text.startswith("adapter mine: ") and len(text) < 1000 and text.isprintable(), text)
        return text


def _check_loaded(adapter: Adapter, path: Path) -> None:
    """An adapter that is accepted is the one in its files, and can be computed with."""
    config = json.loads((path / _CONFIG).read_bytes())
    weights = load_file(path / _WEIGHTS)
    for layer, pair in adapter.pairs.items():
        a, b = (weights[f"base_model.model.{layer}.lora_{side}.weight"] for side in "AB")
        expect(torch.equal(pair.a, a) and torch.equal(pair.b, b), layer)
        expect(bool(torch.isfinite(pair.a).all() and torch.isfinite(pair.b).all()), layer)
        expect(abs(pair.scale) <= 1e6, pair.scale)
        plain = not (config.get("alpha_pattern") or config.get("use_rslora"))
        expected = config.get("lora_alpha", 8) / a.shape[0]
        expect(not plain or pair.scale == expected, (pair.scale, expected))


def _odd_option(path: Path, weights: dict[str, Tensor], chance: random.Random) -> None:
    config = json.loads((path / _CONFIG).read_text())
    for option in chance.sample(_OPTIONS, chance.randint(1, 3)):
        config[option] = chance.choice(_ODD)
    (path / _CONFIG).write_text(json.dumps(config))


def _odd_defaults(path: Path, weights: dict[str, Tensor], chance: random.Random) -> None:
    file = path / FILE
    what = chance.randrange(4)
    if what == 0:
        os.mkfifo(file)
    elif what == 1:
        file.write_bytes(chance.choice([b"", b"[]", b"[" * 100_000, b"\xff", b" " * (2 << 20)]))
    else:
        keys = chance.sample(["decoding", "alpha", "beta", "lora_scale", "tuning", "x"], 2)
        file.write_text(json.dumps({key: chance.choice(_ODD) for key in keys}))


def _odd_config(path: Path, weights: dict[str, Tensor], chance: random.Random) -> None:
    whole = (path / _CONFIG).read_bytes()
    odd = [b"", b"[]", b"null", b"[" * 100_000, b'{"r": ' + b"9" * 5000 + b"}", b" " * (2 << 20)]
    cut = whole[: chance.randrange(len(whole))]
    flipped = _flipped(whole, chance, len(whole))
    (path / _CONFIG).write_bytes(chance.choice([*odd, cut, flipped, b"\xff\xfe" + whole]))


def _odd_file(path: Path, weights: dict[str, Tensor], chance: random.Random) -> None:
    file = path / chance.choice([_CONFIG, _WEIGHTS])
    file.unlink()
    what = chance.randrange(6)
    if what == 0:
        file.mkdir()
    elif what == 1:
        os.mkfifo(file)
    elif what < 5:
        targets = ("/dev/zero", "/etc/passwd", "nowhere")
        file.symlink_to(targets[what - 2])


def _broken_header(path: Path, weights: dict[str, Tensor], chance: random.Random) -> None:
    whole = (path / _WEIGHTS).read_bytes()
    length = int.from_bytes(whole[:8], "little")
    lengths = (0, 1, length - 1, length + 1, 10**8, 10**9, 2**63, 2**64 - 1)
    changes = [
        struct.pack("<Q", chance.choice(lengths)) + whole[8:],
        whole[: chance.randrange(len(whole))],
        _flipped(whole, chance, 8 + length),
        b"",
        whole + b"x",
        whole[:8] + whole[8:].replace(b'"F32"', chance.choice([b'"F64"', b'"I32"', b'"X32"']), 1),
    ]
    (path / _WEIGHTS).write_bytes(chance.choice(changes))


def _huge_shape(path: Path, weights: dict[str, Tensor], chance: random.Random) -> None:
    """A matrix of 16 GB or a terabyte, all of it a hole in the file."""
    layer = next(iter(weights)).partition(".lora_")[0]
    columns = chance.choice([1 << 32, 1 << 38])
    header = {
        f"{layer}.lora_A.weight": {"dtype": "F32", "shape": [1, columns], "data_offsets": [0, 0]},
        f"{layer}.lora_B.weight": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 0]},
    }
    end = 4 * columns
    for matrix, offsets in zip(header.values(), ([0, end], [end, end + 4]), strict=True):
        matrix["data_offsets"] = offsets
    text = json.dumps(header).encode()
    with (path / _WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end + 4)


def _odd_tensor(path: Path, weights: dict[str, Tensor], chance: random.Random) -> None:
    changed = dict(weights)
    key = chance.choice(list(changed))
    other = key.replace("lora_A", "lora_X").replace("lora_B", "lora_A").replace("lora_X", "lora_B")
    tensor = changed.pop(key)
    what = chance.randrange(8)
    if what == 0:
        changed[key] = tensor.clone()
        changed[key].view(-1)[chance.randrange(tensor.numel())] = chance.choice(
            [float("nan"), float("inf"), -float("inf")]
        )
    elif what == 1:
        changed[key] = tensor.to(chance.choice(_DTYPES))
    elif what == 2:
        sizes = [chance.choice([0, 1, 3, 64]) for _ in range(chance.randrange(4))]
        changed[key] = torch.ones(sizes)
    elif what == 3:  # without a rank, or with one that is larger than the layer
        rank = chance.choice([0, 100])
        for name in (key, other):
            shape = list(weights[name].shape)
            shape["lora_B" in name] = rank
            changed[name] = torch.ones(shape)
        config = json.loads((path / _CONFIG).read_text())
        (path / _CONFIG).write_text(json.dumps(config | {"r": rank}))
    elif what == 4:
        name = chance.choice(["..", "/etc/passwd", "", "base_model.model.", "a" * 5000, "a\nb"])
        changed[name + chance.choice([".lora_A.weight", ".lora_B.weight", ""])] = tensor
    elif what == 5:
        layer = key.partition(".lora_")[0]
        changed[key] = tensor
        changed[chance.choice([layer, "base_model.model.x"]) + ".base_layer.weight"] = (
            tensor.clone()
        )
    elif what == 6:
        changed = {}
    save_file(changed, path / _WEIGHTS)


def _flipped(whole: bytes, chance: random.Random, before: int) -> bytes:
    changed = bytearray(whole)
    for _ in range(chance.randint(1, 4)):
        changed[chance.randrange(before)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _nothing(path: Path, weights: dict[str, Tensor], chance: random.Random) -> None:
    """As it is: that must load."""


_CHANGES = (
    *(_odd_option, _odd_config, _odd_file, _broken_header, _huge_shape, _odd_tensor, _odd_tensor),
    *(_odd_defaults, _nothing),
)
