"""The table of the protocol, and all that follows from it: parser, client, gateway, documents."""

from __future__ import annotations

import math
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from cold_backend.adapters.catalogue import AdapterCatalogue
from cold_backend.adapters.served import ServedAdapter
from cold_backend.config import Settings
from cold_backend.errors import ErrorCode, InvalidRequestError, UnknownAdapterError
from cold_backend.protocol.inputs import INPUTS, MAX_ALTERNATIVES
from cold_backend.protocol.outputs import OUTPUTS
from cold_backend.protocol.tensors import DTYPES, Input
from cold_backend.requests.answer import FinishReason, Piece
from cold_backend.requests.beam import EarlyStopping
from cold_backend.requests.fields import MAX_MESSAGES
from cold_backend.requests.parser import RequestParser
from cold_backend.requests.request import GenerationRequest
from cold_backend.requests.token import Alternative, Token
from cold_backend.serving.outputs import outputs_of
from cold_backend.text.tokenizer import Tokenizer
from cold_client import Request, _protocol, _types
from cold_client.gateway import bodies, parts
from docs.write_protocol import filled
from docs.write_protocol import main as write
from tests.bad_inputs import BAD, HELLO
from tests.tokenizers import make_tokenizer

# As the servers of the other tests have it; their model and tokenizer do not matter here.
SETTINGS = Settings(base_model="m", adapters={"equations": "none"}, max_context=640)
VOCAB = 49152
RANGED = [one for one in INPUTS.values() if one.low > -math.inf]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(str(make_tokenizer("byte level", tmp_path_factory.mktemp("t") / "t")), VOCAB)


@pytest.fixture(scope="module")
def parser(small: Tokenizer) -> RequestParser:
    return RequestParser(SETTINGS, small)


def arrays(body: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a body, as tritonserver hands them on."""
    return {
        name: np.array([value if INPUTS[name].many else [value]], DTYPES[INPUTS[name].type])
        for name, value in body.items()
    }


def parse(parser: RequestParser, body: dict[str, Any]) -> GenerationRequest:
    """As `Intake` does it, for adapters that are there from the start."""
    draft = parser.check(arrays(body))
    catalogue = AdapterCatalogue(SETTINGS, None)
    found: dict[str, ServedAdapter] = {}
    while (name := draft.missing(found)) is not None:
        try:
            found[name] = catalogue.known(name) or catalogue.read(name)
        except InvalidRequestError as error:
            raise draft.blame(name, error) from error
    return parser.complete(draft, draft.defaults(found))


@pytest.mark.parametrize(("field", "body"), BAD, ids=lambda v: v if isinstance(v, str) else "")
def test_bad_input_names_its_field(field: str, body: dict[str, Any], parser: RequestParser) -> None:
    with pytest.raises((InvalidRequestError, UnknownAdapterError)) as caught:
        parse(parser, body)
    assert str(caught.value).startswith(f"{field}: ")
    assert caught.value.code in (ErrorCode.INVALID_ARGUMENT, ErrorCode.NOT_FOUND)


def with_value(one: Input, value: float) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if one.name in ("beam_width", "length_penalty"):
        more = {"decoding": "beam"}
    elif one.name == "amateur_lora_scale":
        more = {"amateur_last_tokens": 1}
    elif one.name == "lora_scales":
        more = {"lora_names": ["equations"]}
    return HELLO | more | {one.name: [value] if one.many else value}


@pytest.mark.parametrize("one", RANGED, ids=lambda one: one.name)
def test_ranges_are_those_of_the_table(one: Input, parser: RequestParser) -> None:
    step = 1 if one.type == "INT32" else 1e-6
    inside = [one.low + step * one.open_low, *[0] * one.or_zero]
    outside = [one.low - step * (not one.open_low)]
    if one.high < math.inf and not one.high_note:
        inside.append(one.high)
        outside.append(one.high + max(step, one.high * step))
    if one.type == "FP32":
        outside += [math.nan, math.inf, -math.inf]
    for value in inside:
        parse(parser, with_value(one, value))
    for value in outside:
        with pytest.raises(InvalidRequestError, match=f"^{one.name}: must be "):
            parse(parser, with_value(one, value))


@pytest.mark.parametrize("one", INPUTS.values(), ids=lambda one: one.name)
def test_a_default_is_allowed(one: Input, parser: RequestParser) -> None:
    if one.default is not None and one.default != math.inf:
        decoding = {} if one.name == "decoding" else {"decoding": "beam"}
        body = HELLO | decoding | {one.name: one.default}
        given, absent = parse(parser, body), parse(parser, HELLO | decoding)
        seed = absent.sampling.seed
        numbers = asdict(replace(given.sampling, seed=seed)), asdict(absent.sampling)
        assert numbers[0] == pytest.approx(numbers[1])  # as float32
        assert replace(given, sampling=absent.sampling) == absent


@pytest.mark.parametrize("one", INPUTS.values(), ids=lambda one: one.name)
def test_every_choice_is_understood(one: Input, parser: RequestParser) -> None:
    beam = {} if one.name == "decoding" else {"decoding": "beam"}
    for choice in one.choices:
        parse(parser, HELLO | beam | {one.name: choice})


def test_files_are_what_the_table_gives() -> None:
    for path, text in filled().items():
        assert path.read_text() == text, f"{path.name}: make protocol"


def test_the_files_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_text() for path in filled()}
    written: dict[Path, str] = {}
    monkeypatch.setattr(Path, "write_text", lambda path, text: written.update({path: text}))
    write()
    assert written == before


def test_the_client_knows_the_inputs() -> None:
    wire = {name: one.type.replace("STRING", "BYTES") for name, one in INPUTS.items()}
    assert wire == _protocol.INPUTS
    assert {name for name, one in INPUTS.items() if one.many} == _protocol.LISTS
    assert {f.name for f in fields(Request)} | {"stream"} == INPUTS.keys()
    assert get_args(_types.DecodingName) == INPUTS["decoding"].choices
    assert get_args(_types.Stopping) == INPUTS["early_stopping"].choices
    assert {stopping.value for stopping in EarlyStopping} == {*INPUTS["early_stopping"].choices}


def test_the_gateway_knows_the_inputs() -> None:
    assert bodies.Body.model_fields.keys() | bodies._NOT_HERE >= INPUTS.keys()
    assert parts.MAX_MESSAGES == MAX_MESSAGES
    assert parts.MAX_ALTERNATIVES == MAX_ALTERNATIVES


class Noting(dict[str, Any]):
    """Outputs that note which of them are asked for."""

    asked: set[str]

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)


def test_outputs_are_those_of_the_table(parser: RequestParser, small: Tokenizer) -> None:
    asked = {one.name: True for one in INPUTS.values() if one.name.startswith("return_")}
    request = parse(parser, HELLO | asked | {"continuation": "ab", "top_logprobs": 1})
    token = Token(5, -0.5, -1.0, 6, 2, -0.25, (Alternative(6, -0.25),))
    outputs = outputs_of(Piece("ab", (token, token), FinishReason.STOP), request, small)
    assert list(outputs) == [one.name for one in OUTPUTS]
    for one in OUTPUTS:
        assert outputs[one.name].dtype == DTYPES[one.type], one.name
        assert outputs[one.name].shape == (2 if one.many else 1,), one.name
    noting = Noting({name: array.tolist() for name, array in outputs.items()})
    noting.asked = set()
    piece = _protocol._piece(noting)
    assert noting.asked == outputs.keys()
    assert (piece.log_probs, piece.contrast[0].changed) == ((-0.5, -0.5), True)
