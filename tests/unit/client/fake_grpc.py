"""A gRPC inference service on a loopback port that plays a script."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from cold_client._protocol import pack

HANG = "hang"


def reply(*, final: bool = False, **outputs: tuple[str, list[Any]]) -> Any:
    """A ModelStreamInferResponse with these (datatype, values)."""
    message = pb.ModelStreamInferResponse()
    response = message.infer_response
    response.parameters["triton_final_response"].bool_param = final
    for name, (datatype, values) in outputs.items():
        response.outputs.add(name=name, datatype=datatype, shape=[1, len(values)])
        response.raw_output_contents.append(pack(datatype, values))
    return message


def piece(text: str, *token_ids: int, final: bool = False, **more: tuple[str, list[Any]]) -> Any:
    return reply(
        final=final, text_output=("BYTES", [text]), token_ids=("INT64", list(token_ids)), **more
    )


def failure(message: str) -> Any:
    return pb.ModelStreamInferResponse(error_message=message)


class FakeServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers every request with `script`: replies, an error (code, message), or HANG.

    With credentials it speaks TLS.
    """

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.script: list[Any] = []
        self.models = [("cold", "READY"), ("cold_step", "READY")]
        self.parameters: dict[str, str] = {}
        self.requests: list[Any] = []
        self.metadata: dict[str, str] = {}
        self.cancelled = threading.Event()
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        if credentials is None:
            self.url = f"grpc://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
            self.url = f"grpcs://127.0.0.1:{port}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def ModelStreamInfer(self, request_iterator: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        played = False

        def on_end() -> None:
            if not played:
                self.cancelled.set()

        # From the start: a call that is cancelled early never comes back to this generator.
        context.add_callback(on_end)
        self.metadata = dict(context.invocation_metadata())
        self.requests.append(next(request_iterator))
        for item in self.script:
            if item == HANG:
                self.cancelled.wait(5)
            elif isinstance(item, tuple):
                played = True
                context.abort(*item)
            else:
                yield item
        played = True

    def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ServerReadyResponse(ready=True)

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ModelReadyResponse(ready=("cold", "READY") in self.models)

    def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.metadata = dict(context.invocation_metadata())
        response = pb.RepositoryIndexResponse()
        for name, state in self.models:
            response.models.add(name=name, version="1", state=state)
        return response

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        response = pb.ModelConfigResponse()
        for name, value in self.parameters.items():
            response.config.parameters[name].string_value = value
        return response
