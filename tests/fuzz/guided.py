"""Coverage-guided fuzzing in this process, with libFuzzer through atheris.

    python -m tests.fuzz.guided parser|gateway BASE_MODEL CORPUS RUNS SEED

Stops with a traceback and an exit code other than 0 at the first input that has a wrong outcome;
the last line is a JSON object with the number of inputs by what came of them.
"""

from __future__ import annotations

import json
import random
import resource
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import atheris
import numpy as np

with atheris.instrument_imports(
    include=[
        "cold_backend.requests.fields",
        "cold_backend.requests.request",
        "cold_backend.text.tokenizer",
        "cold_client._protocol",
        "cold_client.gateway.bodies",
        "cold_client.gateway.errors",
    ]
):
    from cold_backend.requests.parser import RequestParser
    from cold_backend.text.tokenizer import Tokenizer
    from cold_client._protocol import INPUTS, LISTS, grpc_request, json_request
    from cold_client.gateway.bodies import ChatBody, CompletionBody
    from cold_client.gateway.errors import from_client, from_validation

from pydantic import ValidationError

from cold_backend.config import Settings
from cold_backend.errors import ColdError
from cold_client import ColdClientError, InvalidRequest
from cold_client.gateway.catalogue import Served
from tests.fuzz.verdict import check_error, check_request, expect

VOCAB = 49152
MAX_BYTES = 1000  # of an input
MOST_MB = 2000  # that all inputs may take
SETTINGS = Settings(base_model="m", adapters={"equations": "a"}, max_context=96)
SERVED = (Served("base", None, None, 96, 0), Served("equations", "equations", "base", 96, 0))
DTYPES = {
    "BOOL": np.bool_,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT64": np.uint64,
    "FP32": np.float32,
}
# What chance would hardly find.
TEXTS = [
    b"Hello",
    b"cold",
    b"greedy",
    b"base",
    b"equations",
    b'[{"role": "user", "content": "Hi"}]',
    b'[{"role": "system", "content": "\\ud800"}]',
    b'[{"role": "user", "content": 5}]',
    b"[" * 2000,
    b"w" * 7000,
]
JSONS: list[Any] = [
    None,
    True,
    0,
    1,
    -1,
    2**70,
    0.5,
    float("nan"),
    1e308,
    "",
    "base",
    "equations",
    "\ud800",
    [],
    ["a"],
    [[1, 2], [3]],
    {},
    {"include_usage": True},
    {"type": "text"},
    [{"role": "user", "content": "Hi"}],
    [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
]
FIELDS = sorted({*ChatBody.model_fields, *CompletionBody.model_fields, "unknown"})

Provider = Any  # atheris.FuzzedDataProvider, which has no types


def parse(data: bytes, parser: RequestParser) -> str:
    """The inputs of `cold` that the bytes mean, through the parser; returns the field refused."""
    provider = atheris.FuzzedDataProvider(data)
    try:
        check_request(parser.parse(_inputs(provider)), SETTINGS, VOCAB)
    except ColdError as error:
        check_error(error)
        return str(error).partition(":")[0]
    return "accepted"


def read_body(data: bytes) -> str:
    """The bytes, or JSON that they mean, as a body of both endpoints; returns the field refused."""
    outcomes: list[str] = []
    provider = atheris.FuzzedDataProvider(data)
    body = _json(provider) if provider.ConsumeBool() else provider.ConsumeBytes(len(data))
    for kind in (ChatBody, CompletionBody):
        try:
            requests = kind.model_validate_json(body).requests(SERVED[len(data) % 2])
            for request in requests:
                grpc_request(request, stream=False)
                json_request(request, stream=False)
            outcomes.append("accepted")
            continue
        except ValidationError as error:
            refusal = from_validation(error)
        except ColdClientError as error:
            expect(isinstance(error, InvalidRequest), repr(error))
            refusal = from_client(error)
        answer = json.loads(bytes(refusal.response().body))["error"]
        expect(refusal.status == 400, answer)
        expect(answer["param"] or answer["message"].startswith("body: "), answer)
        expect(len(answer["message"]) < 2000, answer)
        outcomes.append(answer["param"] if answer["param"] in FIELDS else "body")
    return "accepted" if "accepted" in outcomes else outcomes[0]


def _inputs(provider: Provider) -> dict[str, Any]:
    inputs = {"text_input": _array("BYTES", [b"Hi"])} if provider.ConsumeBool() else {}
    for _ in range(provider.ConsumeIntInRange(0, 6)):
        name = provider.PickValueInList(list(INPUTS))
        count = provider.ConsumeIntInRange(0, 70) if name in LISTS else 1
        inputs[name] = _array(INPUTS[name], [_value(provider, INPUTS[name])] * count)
    return inputs


def _array(datatype: str, values: list[Any]) -> Any:
    if datatype == "BYTES":
        return np.array(values, object).reshape(1, -1)
    return np.array(values).astype(DTYPES[datatype]).reshape(1, -1)


def _value(provider: Provider, datatype: str) -> Any:
    if datatype == "BYTES":
        if provider.ConsumeBool():
            return provider.PickValueInList(TEXTS)
        return provider.ConsumeBytes(provider.ConsumeIntInRange(0, 400))
    if datatype == "FP32":
        return np.clip(provider.ConsumeFloat(), -3.4e38, 3.4e38)
    if datatype == "BOOL":
        return provider.ConsumeBool()
    low, high = (0, 2**64 - 1) if datatype == "UINT64" else (-(2**31), 2**31 - 1)
    return provider.ConsumeIntInRange(*((-2, 5) if provider.ConsumeBool() and low else (low, high)))


def _json(provider: Provider) -> bytes:
    body: dict[str, Any] = {"model": "equations"}
    if provider.ConsumeBool():
        body |= {"messages": JSONS[-2]} if provider.ConsumeBool() else {"prompt": "Hi"}
    for _ in range(provider.ConsumeIntInRange(0, 5)):
        name = provider.PickValueInList(FIELDS)
        value = provider.PickValueInList(JSONS)
        body[name] = provider.ConsumeUnicode(300) if provider.ConsumeBool() else value
    return json.dumps(body).encode()


class Target:
    """Counts outcomes; prints them after the last run, for libFuzzer ends the process itself."""

    def __init__(self, test: Callable[[bytes], str], runs: int) -> None:
        self._test = test
        self._left = runs
        self._outcomes: Counter[str] = Counter()

    def __call__(self, data: bytes) -> None:
        self._outcomes[self._test(data)] += 1
        self._left -= 1
        if not self._left:
            sys.stdout.write(json.dumps(self._outcomes) + "\n")
            sys.stdout.flush()


def main() -> None:
    name, base_model, folder, runs, seed = sys.argv[1:]
    test = read_body
    if name == "parser":
        test = partial(parse, parser=RequestParser(SETTINGS, Tokenizer(base_model, VOCAB)))
    corpus = Path(folder)
    if not any(corpus.iterdir()):
        chance = random.Random(int(seed))
        # Long ones, which mean many fields, are hardly found from nothing.
        for number in range(100):
            (corpus / str(number)).write_bytes(chance.randbytes(chance.randint(10, MAX_BYTES)))
    options = ["-len_control=0", "-reduce_inputs=0", f"-max_len={MAX_BYTES}"]
    options.append(f"-artifact_prefix={corpus.parent}/")
    # What libFuzzer looks at begins with the memory of the process that started this one.
    inherited_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    options.append(f"-rss_limit_mb={inherited_mb + MOST_MB}")
    options += [f"-runs={runs}", f"-seed={seed}", str(corpus)]
    atheris.Setup([sys.argv[0], *options], Target(test, int(runs)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
