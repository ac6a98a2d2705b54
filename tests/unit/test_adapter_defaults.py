"""An adapter's cold.json: read strictly, overridden field by field."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cold_backend.adapters.catalogue import AdapterCatalogue
from cold_backend.adapters.defaults import AdapterDefaults, read_defaults
from cold_backend.config import Settings
from cold_backend.errors import ConfigError, InvalidRequestError
from cold_backend.requests.parser import RequestParser
from cold_backend.text.tokenizer import Tokenizer
from cold_kernels import Mode


def write(folder: Path, content: object) -> Path:
    folder.mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "cold.json").write_text(text)
    return folder


def test_without_a_file_the_defaults_are_the_servers(tmp_path: Path) -> None:
    assert read_defaults(tmp_path) == AdapterDefaults("cold", 0.1, 0.5, "fixed", 1)
    assert read_defaults(write(tmp_path / "a", {"beta": 2})) == AdapterDefaults(beta=2.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Expecting"),
        ([], "must be a JSON object"),
        (
            {"gamma": 1},
            "'gamma': unknown key; known are decoding, alpha, beta, beta_rule, lora_scale, "
            "amateur, tuning",
        ),
        ({"beta_rule": "free"}, "beta_rule: must be one of fixed, divergence, got 'free'"),
        ({"amateur": "system"}, "amateur: must be an object with one at least of without"),
        ({"amateur": {}}, "amateur: must be an object with one at least of without"),
        ({"amateur": {"with": 1}}, "'amateur.with': unknown key; known are without, last_tokens"),
        ({"amateur": {"without": "user"}}, "amateur.without: must be one of system, context"),
        ({"amateur": {"last_tokens": 0}}, "amateur.last_tokens: must be at least 1, got 0"),
        ({"amateur": {"last_tokens": 1.5}}, "amateur.last_tokens: must be a whole number"),
        ({"amateur": {"last_tokens": 2**40}}, "amateur.last_tokens: must be a whole number"),
        ({"amateur": {"last_tokens": 2, "without": "system"}}, "amateur.last_tokens: not with"),
        ({"amateur": {"lora_name": "../b"}}, "amateur.lora_name: must be empty or an adapter's"),
        ({"amateur": {"lora_name": 3}}, "amateur.lora_name: must be empty or an adapter's name"),
        ({"amateur": {"lora_name": "b", "lora_scale": 9}}, "amateur.lora_scale: must be in"),
        ({"amateur": {"lora_scale": True}}, "amateur.lora_scale: must be a finite number"),
        ({"decoding": "base"}, "decoding: must be one of cold, greedy, got 'base'"),
        ({"decoding": ["cold"]}, "decoding: must be one of"),
        ({"alpha": 0}, r"alpha: must be in \(0, 1\], got 0"),
        ({"alpha": 1.5}, "alpha: must be in"),
        ({"alpha": "0.1"}, "alpha: must be a finite number, got '0.1'"),
        ({"beta": -1}, r"beta: must be in \[0, 1000\], got -1"),
        ({"lora_scale": 9}, r"lora_scale: must be in \[0, 8\], got 9"),
        ({"beta": True}, "beta: must be a finite number, got True"),
        ('{"beta": NaN}', "beta: must be a finite number, got nan"),
        ({"beta": None}, "beta: must be a finite number, got None"),
    ],
)
def test_a_malformed_file_is_named_with_its_key(
    content: object, message: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "a", content)
    with pytest.raises(ConfigError, match=f"^adapter a: cold.json: {message}"):
        read_defaults(folder)
    with pytest.raises(ConfigError, match=f"^adapter mine: cold.json: {message}"):
        AdapterCatalogue(Settings(base_model="m", adapters={"mine": str(folder)}), None)
    catalogue = AdapterCatalogue(Settings(base_model="m", adapters_dir=str(tmp_path)), None)
    with pytest.raises(InvalidRequestError, match=f"lora_name: adapter a: cold.json: {message}"):
        catalogue.read("a")


def test_requests_override_field_by_field(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tuned = write(
        tmp_path / "tuned", {"decoding": "greedy", "alpha": 0.3, "beta": 0.25, "lora_scale": 2}
    )
    folder = tmp_path / "folder"
    write(folder, {}) and write(folder / "other", {"beta": 2})
    settings = Settings(
        base_model="m", adapters={"tuned": str(tuned)}, adapters_dir=str(folder), max_context=99
    )
    parser, catalogue = RequestParser(settings, tokenizer), AdapterCatalogue(settings, None)

    def parsed(**fields: object) -> tuple[Mode, float, float, float]:
        inputs = {"text_input": "Hello", **fields}
        draft = parser.check({n: np.array([[v]]) for n, v in inputs.items()})
        (name,) = draft.lora_names
        request = parser.complete(draft, catalogue.reading(name).result().defaults)
        mode, alpha, beta = request.sampling.mode, request.sampling.alpha, request.sampling.beta
        return mode, round(alpha, 6), round(beta, 6), request.adapters[0][1]

    assert parsed() == (Mode.EXPERT, 0.3, 0.25, 2)
    assert parsed(decoding="cold") == (Mode.COLD, 0.3, 0.25, 2)
    assert parsed(decoding="cold", beta=1.0) == (Mode.COLD, 0.3, 1.0, 2)
    assert draft_names(parser, decoding="base") == ("tuned",)  # which may say what is read
    assert parsed(lora_scale=0.5) == (Mode.EXPERT, 0.3, 0.25, 0.5)


def draft_names(parser: RequestParser, **fields: object) -> tuple[str, ...]:
    inputs = {"text_input": "Hello", **fields}
    return parser.check({n: np.array([[v]]) for n, v in inputs.items()}).lora_names
