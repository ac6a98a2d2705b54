"""What NVIDIA's OpenAI front end sends to `cold`, and what it reads from the answer.

The tensors are those of `_create_trtllm_generate_request` in the server repository's
python/openai/openai_frontend/engine/utils/triton.py, which makes them for every model but vLLM's;
the reading is that of `_get_output`, `_get_usage_from_response` and
`_validate_triton_responses_non_streaming` there.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

from cold_client import Client, Request
from tests.conftest import Server

pytestmark = [
    pytest.mark.server,
    pytest.mark.parametrize("server", ["fused"], indirect=True, scope="session"),
]

PROMPT = "The sky is"
ECHO = "exclude_input_in_output"


def strings(*values: str) -> npt.NDArray[np.object_]:
    return np.array([[value.encode() for value in values]], np.object_)


def front_end_inputs(*, stream: bool, stop: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """A request for completions with every field that the front end maps."""
    return {
        "text_input": strings(PROMPT),
        "stream": np.array([[stream]], np.bool_),
        "max_tokens": np.array([[12]], np.int32),
        "stop_words": strings(*stop),
        "top_p": np.array([[0.9]], np.float32),
        "frequency_penalty": np.array([[0.25]], np.float32),
        "presence_penalty": np.array([[0.5]], np.float32),
        "seed": np.array([[7]], np.uint64),
        "temperature": np.array([[0.8]], np.float32),
        ECHO: np.array([[True]], np.bool_),
        "return_num_input_tokens": np.array([[True]], np.bool_),
        "return_num_output_tokens": np.array([[True]], np.bool_),
    }


def infer(server: Server, inputs: dict[str, npt.NDArray[Any]]) -> list[Any]:
    """The responses, as ModelInferResponse."""
    message = pb.ModelInferRequest(model_name="cold")
    for name, array in inputs.items():
        datatype = np_to_triton_dtype(array.dtype)
        message.inputs.add(name=name, datatype=datatype, shape=array.shape)
        raw = serialize_byte_tensor(array).item() if datatype == "BYTES" else array.tobytes()
        message.raw_input_contents.append(raw)
    with grpc.insecure_channel(server.grpc.removeprefix("grpc://")) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        replies = list(stub.ModelStreamInfer(iter([message]), timeout=60))
    assert not any(reply.error_message for reply in replies)
    return [reply.infer_response for reply in replies]


def text(response: Any) -> str:
    """As `_get_output`: exactly one string, which follows its four bytes of length."""
    shape, raw = tensor(response, "text_output", "BYTES")
    assert np.prod(shape) == 1
    return raw[4:].decode()


def count(response: Any, name: str) -> int:
    """As `_get_usage_from_response`: the first number of an INT32 tensor."""
    _, raw = tensor(response, name, "INT32")
    value: int = struct.unpack_from("<i", raw)[0]
    return value


def tensor(response: Any, name: str, datatype: str) -> tuple[list[int], bytes]:
    names = [output.name for output in response.outputs]
    output = response.outputs[names.index(name)]
    assert output.datatype == datatype
    return list(output.shape), response.raw_output_contents[names.index(name)]


def expected(server: Server, *stop: str) -> Any:
    with Client(server.grpc) as client:
        return client.generate(
            Request(
                text_input=PROMPT,
                max_tokens=12,
                stop_words=stop,
                top_p=0.9,
                frequency_penalty=0.25,
                presence_penalty=0.5,
                seed=7,
                temperature=0.8,
            )
        )


def test_a_whole_answer(server: Server) -> None:
    responses = infer(server, front_end_inputs(stream=False, stop=["\n\n\n", "###"]))
    assert 1 <= len(responses) <= 2
    result = expected(server, "\n\n\n", "###")
    assert text(responses[0]) == result.text
    assert count(responses[0], "num_input_tokens") == result.num_input_tokens
    assert count(responses[0], "num_output_tokens") == result.num_output_tokens


def test_a_stream(server: Server) -> None:
    responses = infer(server, front_end_inputs(stream=True, stop=["###"]))
    result = expected(server, "###")
    assert len(responses) > 4
    assert "".join(map(text, responses)) == result.text
    assert count(responses[0], "num_input_tokens") == result.num_input_tokens
    outputs = sum(count(response, "num_output_tokens") for response in responses)
    assert outputs == result.num_output_tokens


def test_an_echo(server: Server) -> None:
    inputs = front_end_inputs(stream=False, stop=["###"])
    inputs[ECHO] = np.array([[False]], np.bool_)
    assert text(infer(server, inputs)[0]).startswith(PROMPT)
