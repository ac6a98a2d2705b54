"""The wire format of docs/protocol.md as pure functions, shared by all transports."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from ._exceptions import InvalidRequest, ProtocolError, from_message
from ._types import Alternative, Piece, Request, TokenContrast

MODEL = "cold"

INPUTS = {f.name: str(f.metadata["datatype"]) for f in fields(Request)} | {"stream": "BOOL"}
LISTS = frozenset(f.name for f in fields(Request) if f.metadata["many"])

# struct's codes for the datatypes of numbers.
_CODES = {"BOOL": "?", "INT32": "i", "INT64": "q", "UINT64": "Q", "FP32": "f"}

Outputs = Mapping[str, Sequence[Any]]


def pack(datatype: str, values: Sequence[Any]) -> bytes:
    """A tensor's raw bytes. Raises struct.error, OverflowError, TypeError or ValueError."""
    if datatype == "BYTES":
        encoded = [value.encode() for value in values]
        return b"".join(struct.pack("<I", len(item)) + item for item in encoded)
    return struct.pack(f"<{len(values)}{_CODES[datatype]}", *values)


def unpack(datatype: str, raw: bytes) -> list[Any]:
    """The values of a tensor's raw bytes. Raises struct.error, KeyError or ValueError."""
    if datatype != "BYTES":
        code = _CODES[datatype]
        return list(struct.unpack(f"<{len(raw) // struct.calcsize('<' + code)}{code}", raw))
    values = []
    start = 0
    while start < len(raw):
        (length,) = struct.unpack_from("<I", raw, start)
        start += 4
        if start + length > len(raw):
            raise ValueError("a BYTES tensor ends early")
        values.append(raw[start : start + length].decode())
        start += length
    return values


def grpc_request(request: Request, *, stream: bool) -> Any:
    """The ModelInferRequest for a request. Raises InvalidRequest."""
    message = pb.ModelInferRequest(model_name=MODEL)
    # Without it, a request that ends with an empty response would never be seen to end.
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    for name, values, raw in _inputs(request, stream=stream):
        message.inputs.add(name=name, datatype=INPUTS[name], shape=[1, len(values)])
        message.raw_input_contents.append(raw)
    return message


def json_request(request: Request, *, stream: bool) -> bytes:
    """The JSON body for a request. Raises InvalidRequest."""
    return json.dumps(
        {
            name: values if name in LISTS else values[0]
            for name, values, _ in _inputs(request, stream=stream)
        }
    ).encode()


def grpc_reply(reply: Any) -> tuple[Piece | None, bool]:
    """The piece in a ModelStreamInferResponse, if it has one, and whether it is the last.

    Raises the error that the response carries, or ProtocolError.
    """
    if reply.error_message:
        raise from_message(reply.error_message)
    response = reply.infer_response
    final = response.parameters["triton_final_response"].bool_param
    if not response.outputs:
        return None, final
    try:
        outputs = {
            output.name: unpack(output.datatype, raw)
            for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        }
    except (KeyError, ValueError, struct.error) as error:
        raise ProtocolError(f"malformed output tensor: {error}") from error
    return _piece(outputs), final


def json_reply(body: bytes) -> Piece:
    """The piece in a JSON answer or event. Raises the error in it, or ProtocolError."""
    reply = json_object(body)
    if "error" in reply:
        raise from_message(str(reply["error"]))
    # A list of one element comes as the element.
    return _piece(
        {name: value if isinstance(value, list) else [value] for name, value in reply.items()}
    )


def json_object(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises ProtocolError for anything else."""
    try:
        value = json.loads(body)
    except ValueError as error:
        raise ProtocolError(f"not JSON: {body[:100]!r}") from error
    if not isinstance(value, dict):
        raise ProtocolError(f"not a JSON object: {body[:100]!r}")
    return value


def json_error(body: bytes) -> str:
    """The message in the body of a failed HTTP request, whatever the body is."""
    text = body.decode(errors="replace").strip()
    try:
        # generate_stream sends even an error that comes first as an event.
        return str(json_object(text.removeprefix("data:").encode())["error"])
    except (ProtocolError, KeyError):
        return text[:200]


class Events:
    """Cuts a stream of server-sent events into JSON bodies.

    Not by lines of text: a string may hold U+2028 and others that Python counts as line ends.
    """

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The bodies of the events that are complete now."""
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        return (line[5:] for line in lines if line.startswith(b"data:"))


def whole(ended: bool) -> None:
    """Raises ProtocolError if a stream stopped before its last response."""
    if not ended:
        raise ProtocolError("the stream was cut off before its last response")


def _inputs(request: Request, *, stream: bool) -> Iterator[tuple[str, list[Any], bytes]]:
    for name, datatype in INPUTS.items():
        value = stream if name == "stream" else getattr(request, name)
        if value is None:
            continue
        try:
            values = _values(name, value)
            yield name, values, pack(datatype, values)
        except struct.error as error:
            said = f"{name}: must be of type {datatype}, got {value!r:.60}"
            raise InvalidRequest(said, field=name) from error
        except (AttributeError, OverflowError, TypeError, ValueError) as error:
            raise InvalidRequest(f"{name}: {error}", field=name) from error


def _values(name: str, value: Any) -> list[Any]:
    if name in ("messages", "amateur_messages"):
        return [json.dumps(list(value))]
    if name == "logit_bias":
        if not isinstance(value, Mapping):
            raise TypeError(f"must be a mapping of token ids and numbers, got {value!r:.60}")
        return [json.dumps({str(int(token)): float(bias) for token, bias in value.items()})]
    if name == "early_stopping" and isinstance(value, bool):
        return [str(value).lower()]
    # One string given for a list of strings would otherwise be taken letter by letter.
    values = list(value) if name in LISTS and not isinstance(value, str) else [value]
    # JSON needs 1.0 where tritonserver expects a float, not 1.
    return [float(value) for value in values] if INPUTS[name] == "FP32" else values


def _piece(outputs: Outputs) -> Piece:
    try:
        return Piece(
            text=outputs["text_output"][0],
            token_ids=tuple(map(int, outputs.get("token_ids", ()))),
            finish_reason=_first(outputs, "finish_reason"),
            num_input_tokens=_first(outputs, "num_input_tokens"),
            num_output_tokens=_first(outputs, "num_output_tokens"),
            num_cached_tokens=_first(outputs, "num_cached_tokens"),
            log_probs=tuple(map(float, outputs.get("output_log_probs", ()))),
            decoding_log_probs=tuple(map(float, outputs.get("decoding_log_probs", ()))),
            alternatives=tuple(_alternatives(outputs)),
            contrast=tuple(_contrast(outputs)),
        )
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"malformed response: {error!r}") from error


def _first(outputs: Outputs, name: str) -> Any:
    values = outputs.get(name)
    return values[0] if values else None


def _alternatives(outputs: Outputs) -> Iterable[tuple[Alternative, ...]]:
    """Of each token; they come one after another, the same number of each."""
    ids, log_probs = outputs.get("top_token_ids", ()), outputs.get("top_log_probs", ())
    best = [Alternative(int(one), float(of)) for one, of in zip(ids, log_probs, strict=True)]
    tokens = len(outputs.get("token_ids", ()))
    if not best:
        return []
    if not tokens or len(best) % tokens:
        raise ValueError(f"{len(best)} alternatives of {tokens} tokens")
    count = len(best) // tokens
    return [tuple(best[start : start + count]) for start in range(0, len(best), count)]


def _contrast(outputs: Outputs) -> Iterable[TokenContrast]:
    changed = [*map(bool, outputs.get("contrast_changed", ()))]
    columns = (
        map(float, outputs.get("contrast_expert_log_probs", ())),
        map(float, outputs.get("contrast_base_log_probs", ())),
        map(int, outputs.get("contrast_valid_counts", ())),
        changed,
        map(str, outputs.get("contrast_expert_texts", [""] * len(changed))),
    )
    return (TokenContrast(*column) for column in zip(*columns, strict=True))
