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
from ._transport import Access
from ._types import Health, Model, Piece, Request

_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A server that was away is looked for every second, not every other minute.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
_MODEL = pb.ModelReadyRequest(name=MODEL)
_CONFIG = pb.ModelConfigRequest(name=MODEL)
_OPEN = Access()


class GrpcTransport:
    """Requests over gRPC to `host:port`, or over the given channel, which it then owns."""

    def __init__(
        self,
        target: str,
        *,
        tls: bool = False,
        access: Access = _OPEN,
        channel: grpc.Channel | None = None,
    ) -> None:
        self._metadata = _metadata(access)
        self._channel = channel or _channel(grpc, target, _credentials(access) if tls else None)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def pieces(
        self, request: Request, *, stream: bool, timeout_s: float
    ) -> Generator[Piece, None, None]:
        message = grpc_request(request, stream=stream)
        seen = final = False
        with grpc_errors():
            call = self._call("ModelStreamInfer", iter([message]), timeout_s)
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
                live=self._call("ServerLive", pb.ServerLiveRequest(), timeout_s).live,
                ready=self._call("ServerReady", pb.ServerReadyRequest(), timeout_s).ready,
                model_ready=self._call("ModelReady", _MODEL, timeout_s).ready,
            )

    def models(self, *, timeout_s: float) -> list[Model]:
        with grpc_errors():
            index = self._call("RepositoryIndex", pb.RepositoryIndexRequest(), timeout_s)
            models = _models(index)
            if not has_config(models):
                return models
            reply = self._call("ModelConfig", _CONFIG, timeout_s)
        return with_config(models, _parameters(reply))

    def close(self) -> None:
        self._channel.close()

    def _call(self, method: str, message: Any, timeout_s: float) -> Any:
        return getattr(self._stub, method)(message, timeout=timeout_s, metadata=self._metadata)


class AsyncGrpcTransport:
    """Like `GrpcTransport`, for asyncio."""

    def __init__(
        self,
        target: str,
        *,
        tls: bool = False,
        access: Access = _OPEN,
        channel: grpc.aio.Channel | None = None,
    ) -> None:
        self._target = target
        self._metadata = _metadata(access)
        self._credentials = _credentials(access) if tls else None
        self._channel = channel

    async def pieces(
        self, request: Request, *, stream: bool, timeout_s: float
    ) -> AsyncGenerator[Piece, None]:
        message = grpc_request(request, stream=stream)
        seen = final = False
        with grpc_errors():
            call = self._call("ModelStreamInfer", iter([message]), timeout_s)
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
        with grpc_errors():
            live = await self._call("ServerLive", pb.ServerLiveRequest(), timeout_s)
            ready = await self._call("ServerReady", pb.ServerReadyRequest(), timeout_s)
            model = await self._call("ModelReady", _MODEL, timeout_s)
        return Health(live=live.live, ready=ready.ready, model_ready=model.ready)

    async def models(self, *, timeout_s: float) -> list[Model]:
        with grpc_errors():
            models = _models(
                await self._call("RepositoryIndex", pb.RepositoryIndexRequest(), timeout_s)
            )
            if not has_config(models):
                return models
            reply = await self._call("ModelConfig", _CONFIG, timeout_s)
        return with_config(models, _parameters(reply))

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    def _call(self, method: str, message: Any, timeout_s: float) -> Any:
        return getattr(self._stub(), method)(message, timeout=timeout_s, metadata=self._metadata)

    def _stub(self) -> Any:
        # Not before the first call: a channel of grpc.aio belongs to the running event loop.
        if self._channel is None:
            self._channel = _channel(grpc.aio, self._target, self._credentials)
        return service_pb2_grpc.GRPCInferenceServiceStub(self._channel)


def _channel(module: Any, target: str, credentials: grpc.ChannelCredentials | None) -> Any:
    """A channel of grpc or grpc.aio."""
    if credentials is None:
        return module.insecure_channel(target, options=_OPTIONS)
    return module.secure_channel(target, credentials, options=_OPTIONS)


def _credentials(access: Access) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(access.ca_bytes())


def _metadata(access: Access) -> tuple[tuple[str, str], ...]:
    return tuple((name.lower(), value) for name, value in access.headers.items())


def _models(index: Any) -> list[Model]:
    return [
        Model(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
        for entry in index.models
    ]


def _parameters(reply: Any) -> dict[str, str]:
    return {name: value.string_value for name, value in reply.config.parameters.items()}
