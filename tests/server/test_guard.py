"""Requests that tritonserver 2.51 by itself does not survive."""

from __future__ import annotations

import queue

import numpy as np
import pytest
import tritonclient.grpc as grpc

from cold_client import Client, Request
from tests.conftest import Server

pytestmark = pytest.mark.server


def text() -> grpc.InferInput:
    tensor = grpc.InferInput("text_input", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[b"Hello"]], np.object_))
    return tensor


def length() -> grpc.InferInput:
    tensor = grpc.InferInput("max_tokens", [1, 1], "INT32")
    tensor.set_data_from_numpy(np.array([[2]], np.int32))
    return tensor


def error_of(
    server: Server, inputs: list[grpc.InferInput], outputs: list[grpc.InferRequestedOutput]
) -> str:
    """What a request is refused with."""
    answers: queue.Queue[object] = queue.Queue()
    with grpc.InferenceServerClient(server.grpc.removeprefix("grpc://")) as client:
        client.start_stream(lambda result, error: answers.put(error))
        client.async_stream_infer("cold", inputs, outputs=outputs)
        error = answers.get(timeout=30)
        client.stop_stream()
    return str(error)


def still_answers(server: Server) -> bool:
    with Client(server.grpc) as client:
        return len(client.generate(Request(text_input="Hello", max_tokens=2)).token_ids) == 2


@pytest.mark.parametrize("output", ["text_output", "token_ids"])
def test_outputs_as_classes(output: str, server: Server) -> None:
    """The classification extension divides by the size of an element, for text 0."""
    wanted = [grpc.InferRequestedOutput(output, class_count=1)]
    error = error_of(server, [text(), length()], wanted)
    assert error == "classification: outputs cannot be had as classes [invalid_argument]"
    assert still_answers(server)


@pytest.mark.parametrize("shape", [(1, 1 << 60), (1 << 32, 1 << 32), (1, 1 << 62)])
def test_shapes_without_bounds(shape: tuple[int, int], server: Server) -> None:
    tensor = grpc.InferInput("input_ids", [1, 1], "INT64")
    tensor.set_data_from_numpy(np.array([[5]], np.int64))
    tensor._input.shape[:] = shape
    assert "[invalid_argument]" in error_of(server, [tensor], [])
    assert still_answers(server)
