"""gRPC transports, sync and asyncio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from ._exceptions import grpc_errors
from ._models import has_config, with_config
from ._protocol import MODEL, grpc_reply, grpc_request, whole
from ._types import Health, Model, Piece, Request

_UNLIMITED = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
_MODEL = pb.ModelReadyRequest(name=MODEL)
_CONFIG = pb.ModelConfigRequest(name=MODEL)


class GrpcTransport:
    """Requests over gRPC to `host:port`, or over the given channel, which it then owns."""

    def __init__(self, target: str, *, channel: grpc.Channel | None = None) -> None:
        self._channel = channel or grpc.insecure_channel(target, options=_UNLIMITED)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def pieces(
        self, request: Request, *, stream: bool, timeout_s: float
    ) -> Generator[Piece, None, None]:
        message = grpc_request(request, stream=stream)
        seen = final = False
        with grpc_errors():
            call = self._stub.ModelStreamInfer(iter([message]), timeout=timeout_s)
            try:
                for reply in call:
                    piece, final = grpc_reply(reply)
                    if piece is not None:
                        seen = True
                        yield piece
            finally:
                call.cancel()  # does nothing to a call that has ended
        whole(seen and final)

    def health(self, *, timeout_s: float) -> Health:
        with grpc_errors():
            return Health(
                live=self._stub.ServerLive(pb.ServerLiveRequest(), timeout=timeout_s).live,
                ready=self._stub.ServerReady(pb.ServerReadyRequest(), timeout=timeout_s).ready,
                model_ready=self._stub.ModelReady(_MODEL, timeout=timeout_s).ready,
            )

    def models(self, *, timeout_s: float) -> list[Model]:
        with grpc_errors():
            index = self._stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=timeout_s)
            models = _models(index)
            if not has_config(models):
                return models
            reply = self._stub.ModelConfig(_CONFIG, timeout=timeout_s)
        return with_config(models, _parameters(reply))

    def close(self) -> None:
        self._channel.close()


class AsyncGrpcTransport:
    """Like `GrpcTransport`, for asyncio."""

    def __init__(self, target: str, *, channel: grpc.aio.Channel | None = None) -> None:
        self._target = target
        self._channel = channel

    async def pieces(
        self, request: Request, *, stream: bool, timeout_s: float
    ) -> AsyncGenerator[Piece, None]:
        message = grpc_request(request, stream=stream)
        seen = final = False
        with grpc_errors():
            call = self._stub().ModelStreamInfer(iter([message]), timeout=timeout_s)
            try:
                async for reply in call:
                    piece, final = grpc_reply(reply)
                    if piece is not None:
                        seen = True
                        yield piece
            finally:
                call.cancel()  # does nothing to a call that has ended
        whole(seen and final)

    async def health(self, *, timeout_s: float) -> Health:
        stub = self._stub()
        with grpc_errors():
            live = await stub.ServerLive(pb.ServerLiveRequest(), timeout=timeout_s)
            ready = await stub.ServerReady(pb.ServerReadyRequest(), timeout=timeout_s)
            model = await stub.ModelReady(_MODEL, timeout=timeout_s)
        return Health(live=live.live, ready=ready.ready, model_ready=model.ready)

    async def models(self, *, timeout_s: float) -> list[Model]:
        stub = self._stub()
        with grpc_errors():
            models = _models(
                await stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=timeout_s)
            )
            if not has_config(models):
                return models
            reply = await stub.ModelConfig(_CONFIG, timeout=timeout_s)
        return with_config(models, _parameters(reply))

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    def _stub(self) -> Any:
        # Not before the first call: a channel of grpc.aio belongs to the running event loop.
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self._target, options=_UNLIMITED)
        return service_pb2_grpc.GRPCInferenceServiceStub(self._channel)


def _models(index: Any) -> list[Model]:
    return [
        Model(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
        for entry in index.models
    ]


def _parameters(reply: Any) -> dict[str, str]:
    return {name: value.string_value for name, value in reply.config.parameters.items()}
