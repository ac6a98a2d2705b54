"""What comes with a model's tokenizer: ids, ends of sequences, chat templates, broken files."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer as Backend
from tokenizers import models

from cold_backend.config import Settings
from cold_backend.contract import Reader
from cold_backend.decoding.execution import FusedExecution
from cold_backend.errors import ConfigError, InvalidRequestError
from cold_backend.loading import load_tokenizer
from cold_backend.requests.answer import FinishReason
from cold_backend.requests.parser import RequestParser
from cold_backend.requests.sequence import Sequence
from cold_backend.text import chat_template
from cold_backend.text.tokenizer import Tokenizer
from cold_kernels import load_ops
from tests.fakes import Sink, new_engine, new_scheduler, run_all, sink
from tests.families import add_tokenizer
from tests.tokenizers import make_tokenizer
from tests.unit.test_language_model import CPU, packed

VOCAB = 49152
CHAT = [{"role": "user", "content": "Hello"}]
EOS = [2, 34317]
Edit = Callable[[Path], None]


@pytest.fixture(scope="module")
def small(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model whose tokenizer is the real one."""
    path = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "head_dim": 16}
    config = transformers.AutoConfig.for_model(
        "llama",
        **sizes,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                weight.normal_(0, 0.3)
    model.save_pretrained(path)
    return add_tokenizer(path, base_model)


@pytest.fixture
def copied(small: Path, tmp_path: Path) -> Path:
    """A copy of it whose files may be changed."""
    return Path(shutil.copytree(small, tmp_path / "model"))


def write(path: Path, **values: Any) -> None:
    """Sets keys of a JSON file, which may be new; None takes one out."""
    old = json.loads(path.read_text()) if path.exists() else {}
    new = {key: value for key, value in (old | values).items() if value is not None}
    path.write_text(json.dumps(new))


def load(path: Path) -> Tokenizer:
    return load_tokenizer(Settings(base_model=str(path)))


def decoded(path: Path, *requests: dict[str, Any]) -> list[Sequence]:
    """Requests that are decoded beside each other."""
    tokenizer = load(path)
    model = packed(path, readers=(Reader.EXPERT, Reader.BASE))
    engine = new_engine(
        FusedExecution(model, load_ops("native", CPU)).execute, new_scheduler(4), len(requests)
    )
    parser = RequestParser(Settings(base_model="m", max_context=64), tokenizer)
    ids = {"input_ids": np.arange(500, 512), "decoding": np.array([b"base"])}
    sequences = [
        Sequence(
            parser.parse(ids | {name: np.array([value]) for name, value in inputs.items()}),
            Sink(),
            tokenizer,
        )
        for inputs in requests
    ]
    for one in sequences:
        engine.submit(one)
    run_all(engine, sequences)
    return sequences


def no_file(path: Path) -> None:
    (path / "generation_config.json").unlink()
    write(path / "config.json", eos_token_id=EOS)


def in_generation_config(path: Path) -> None:
    write(path / "generation_config.json", eos_token_id=EOS)


@pytest.mark.parametrize("edit", [no_file, in_generation_config])
def test_a_sequence_ends_where_transformers_ends_it(edit: Edit, copied: Path) -> None:
    edit(copied)
    ended, not_ended = decoded(copied, {"max_tokens": 8}, {"max_tokens": 8, "ignore_eos": True})
    right = [27117, 3480, 37588, 34317, 11791, 3560, 19095, 47278]
    assert sink(ended).tokens == right[:4]
    assert sink(ended).pieces[-1].finish_reason is FinishReason.STOP
    assert sink(not_ended).tokens == right
    model = transformers.AutoModelForCausalLM.from_pretrained(copied)
    ids = torch.arange(500, 512)[None]
    assert model.generate(ids, max_new_tokens=8)[0, 12:].tolist() == right[:4]


@pytest.mark.parametrize(
    ("generation", "config", "found"),
    [
        ({"eos_token_id": 7}, {"eos_token_id": [2, 9]}, {7}),
        ({"eos_token_id": [7, 8]}, {"eos_token_id": 9}, {7, 8}),
        ({"pad_token_id": 7}, {"eos_token_id": 9}, set()),
        (None, {"eos_token_id": 9}, {9}),
        (None, {"eos_token_id": [9, 10]}, {9, 10}),
        (None, {}, set()),
        (None, {"text_config": {"eos_token_id": [9]}}, {9}),
        (None, {"eos_token_id": 8, "text_config": {"eos_token_id": 9}}, {8}),
        (None, {"decoder": {"eos_token_id": 9}}, {9}),
        ({"eos_token_id": [7, 500, -1]}, {}, {7}),
        (None, {"eos_token_id": 400}, set()),
    ],
)
def test_ends_come_from_where_transformers_looks(
    generation: dict[str, Any] | None, config: dict[str, Any], found: set[int], tmp_path: Path
) -> None:
    make_tokenizer("llama", tmp_path, eos_token="</s>")
    # As the class of any family would be: without defaults of its own.
    write(tmp_path / "config.json", **{"model_type": "unknown"} | config)
    if generation is not None:
        write(tmp_path / "generation_config.json", **generation)
    name = None if generation is not None else "config.json"
    theirs = transformers.GenerationConfig.from_pretrained(
        tmp_path, config_file_name=name, _from_model_config=generation is None
    ).eos_token_id
    own = {theirs} if isinstance(theirs, int) else set(theirs or [])
    assert {i for i in own if 0 <= i < 400} == found
    assert Tokenizer(str(tmp_path), 400).eos_ids == found | {2}  # the tokenizer's own


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("generation_config.json", '{"eos_token_id": "x"}', "must be an integer or a list"),
        ("generation_config.json", '{"eos_token_id": [2, "x"]}', "must be an integer or a list"),
        ("generation_config.json", '{"eos_token_id": true}', "must be an integer or a list"),
        ("generation_config.json", '{"eos_token_id": [[2]]}', "must be an integer or a list"),
        ("generation_config.json", "{", "generation_config.json"),
        ("generation_config.json", "[]", "must be a JSON object"),
        ("config.json", '{"model_type": "llama", "eos_token_id": "x"}', "eos_token_id"),
        ("config.json", '{"model_type": "llama", "eos_token_id": 2.5}', "eos_token_id"),
        ("tokenizer.json", "{", "no usable tokenizer"),
        ("tokenizer.json", "{}", "no usable tokenizer"),
        ("tokenizer.json", "[]", "no usable tokenizer"),
        ("tokenizer_config.json", "[]", "no usable tokenizer"),
        ("tokenizer_config.json", '{"auto_map": 3}', "no usable tokenizer"),
        ("tokenizer_config.json", '{"eos_token": 5}', "no usable tokenizer"),
    ],
)
def test_broken_files_are_refused_in_a_line(
    file: str, text: str, message: str, copied: Path
) -> None:
    (copied / file).write_text(text)
    if file == "config.json":
        (copied / "generation_config.json").unlink()
    with pytest.raises(ConfigError, match=message) as raised:
        load(copied)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["TokenizersBackend", "LlamaTokenizer", "GPT2Tokenizer"])
def test_a_tokenizer_whose_file_is_missing_is_refused(kind: str, copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    write(copied / "tokenizer_config.json", tokenizer_class=kind)
    with pytest.raises(ConfigError, match="no usable tokenizer"):
        load(copied)


def test_code_of_a_tokenizer_does_not_run(copied: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (copied / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: pass\n")
    write(
        copied / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["own.Own", "own.Own"]},
        tokenizer_class="Own",
    )
    with pytest.raises(ConfigError, match="custom code"):
        load(copied)
    assert not ran.exists()


@pytest.fixture
def too_many(copied: Path) -> RequestParser:
    """Parses requests with a tokenizer that has a token more than the model."""
    write(copied / "tokenizer_config.json", pad_token="[PAD]")
    assert load(copied)._tokenizer.pad_token_id == VOCAB
    return RequestParser(Settings(base_model="m", max_context=64), load(copied))


@pytest.mark.parametrize(
    ("field", "inputs"),
    [
        ("text_input", {"text_input": b"hello [PAD] world"}),
        ("messages", {"messages": json.dumps([{"role": "user", "content": "[PAD]"}]).encode()}),
        ("continuation", {"text_input": b"hello", "continuation": b" [PAD]"}),
        ("bad_words", {"text_input": b"hello", "bad_words": b"[PAD]"}),
        ("input_ids", {"input_ids": VOCAB}),
        ("input_ids", {"input_ids": -1}),
    ],
)
def test_tokens_beyond_the_logits_are_refused(
    field: str, inputs: dict[str, Any], too_many: RequestParser
) -> None:
    arrays = {name: np.array([value]) for name, value in inputs.items()}
    with pytest.raises(InvalidRequestError, match=f"0 to {VOCAB - 1}") as raised:
        too_many.parse(arrays | {"decoding": np.array([b"base"])})
    assert raised.value.field == field
    assert "PAD" in str(raised.value) or field == "input_ids"


def test_what_is_beyond_the_logits_is_told_at_start(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(copied / "tokenizer_config.json", pad_token="[PAD]", bos_token="[BOS]")
    write(copied / "generation_config.json", eos_token_id=[2, VOCAB, -1])
    with caplog.at_level(logging.WARNING):
        assert load(copied).eos_ids == {2}
    assert f"-1, {VOCAB} are ignored" in caplog.text
    assert "'[PAD]'" in caplog.text


def test_ends_beyond_the_logits_fail_nobody(copied: Path) -> None:
    write(copied / "generation_config.json", eos_token_id=[2, VOCAB])
    first, second = decoded(copied, {"min_tokens": 2, "max_tokens": 4}, {"max_tokens": 4})
    assert sink(first).tokens == sink(second).tokens == [27117, 3480, 37588, 34317]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ 1 % 0 }}", "ZeroDivisionError"),
        ("{{ messages[9].content.x }}", "UndefinedError"),
        ("{{ messages.x.y }}", "UndefinedError"),
        ("{{ 'a' + 1 }}", "TypeError"),
        ("{{ messages[0]['content'].encode('nothing') }}", "Error"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ raise_exception('roles must alternate') }}", "refuses them: roles must alternate$"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError|UndefinedError"),
        ("{{ messages.__class__.__subclasses__() }}", "SecurityError|UndefinedError"),
        ("{% set _ = messages.append(1) %}", "SecurityError"),
        ("{{ cycler.__init__.__globals__.os.system('x') }}", "SecurityError|UndefinedError"),
        ("{% include 'x' %}", "TypeError|loader"),
        ("{% for i in range(10**9) %}{% endfor %}", "OverflowError"),
        (
            "{% set r = range(99999) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}",
            "takes longer than",
        ),
        (
            "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
            "{{ f(60) }}",
            "takes longer than",
        ),
        ("{% for i in range(99999) %}{{ messages[0].content * 100 }}{% endfor %}", "too long"),
        ("{{ 'a' * 10 ** 10 }}", "too large"),
        ("{{ [1] * 10 ** 9 }}", "too large"),
        ("{{ 9 ** 999999999 }}", "too large"),
        ("{% if %}", "broken: TemplateSyntaxError"),
        ("{{ x", "broken: TemplateSyntaxError"),
        ("{% nothing %}", "broken: TemplateSyntaxError"),
        ("", "no chat template"),
    ],
)
def test_a_template_that_fails_refuses_messages(
    template: str, message: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template, "_LONGEST_S", 0.2)
    (copied / "chat_template.jinja").write_text(template)
    tokenizer = load(copied)
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match=message) as raised:
            tokenizer.encode_chat(CHAT)
        assert raised.value.field == "messages"
        assert "\n" not in str(raised.value)
    assert tokenizer.encode("Hello") == [19556]


@pytest.mark.parametrize("value", [5, {}, [{"name": "x", "template": "y"}]])
def test_a_template_of_another_kind_refuses_messages(value: object, copied: Path) -> None:
    (copied / "chat_template.jinja").unlink()
    write(copied / "tokenizer_config.json", chat_template=value)
    with pytest.raises(InvalidRequestError, match="messages: this model"):
        load(copied).encode_chat(CHAT)


TEMPLATES = [
    "",  # stands for the model's own
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]\n{{ m['content']|trim }}{{ eos_token }}"
    "{% endfor %}\n    {% if add_generation_prompt %}\n  [assistant]{% endif %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = loop.index * 2 ** 3 %}"
    "{% if loop.last %}{% continue %}{% endif %}{{ '-' * 3 }}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}none{% endfor %}{{ ns.n }}{{ messages|tojson }}",
    "{% macro one(m) %}{{ m.role }}: {{ caller() }}{% endmacro %}{% for m in messages recursive %}"
    "{% call one(m) %}{{ m.content }}{% endcall %}{% endfor %}{{ tools is none }}{{ documents }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_chat_is_that_of_transformers(template: str, copied: Path) -> None:
    if template:
        (copied / "chat_template.jinja").write_text(template)
    chat = [
        {"role": "system", "content": " Be <b>brief</b> & kind. "},
        {"role": "user", "content": "Héllo 🦜 \x00"},
        {"role": "assistant", "content": ""},
    ]
    theirs = transformers.AutoTokenizer.from_pretrained(copied).apply_chat_template(
        chat, add_generation_prompt=True, return_dict=False
    )
    assert load(copied).encode_chat(chat) == theirs
    assert len(theirs) > 10


def test_text_that_a_tokenizer_cannot_take_is_refused(tmp_path: Path) -> None:
    backend = Backend(models.WordLevel({"a": 0, "b": 1, "<unk>": 2}, unk_token="nothing"))
    backend.save(str(tmp_path / "tokenizer.json"))
    write(tmp_path / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    tokenizer = Tokenizer(str(tmp_path), 3)
    parser = RequestParser(Settings(base_model="m", max_context=64), tokenizer)
    base = {"decoding": np.array([b"base"]), "text_input": np.array([b"a"])}
    assert parser.parse(base).prompt == (0,)
    for field in ("text_input", "bad_words", "continuation"):
        with pytest.raises(InvalidRequestError, match=f"{field}: the tokenizer cannot take it"):
            parser.parse(base | {field: np.array([b"zzz"])})


@pytest.mark.parametrize(
    "text", ["\x00", "a\x00b", "\ufffe", "\u202e", "e" + "\u0301" * 50, "\ud800"]
)
def test_odd_text_is_taken_or_refused(text: str, tokenizer: Tokenizer) -> None:
    parser = RequestParser(Settings(base_model="m", max_context=256), tokenizer)
    inputs = {"text_input": np.array([text], object), "decoding": np.array([b"base"])}
    if text == "\ud800":  # half a character
        with pytest.raises(InvalidRequestError, match="text_input: must be UTF-8"):
            parser.parse(inputs)
    else:
        assert tokenizer.decode(parser.parse(inputs).prompt).startswith(text[:1].strip("\ufffe"))
