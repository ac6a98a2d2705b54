"""The gateway's routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .. import _types
from .._client import AsyncClient
from .._exceptions import ColdClientError, ServerUnavailable
from .._types import Result
from .answers import Answer, ChatAnswer, CompletionAnswer
from .bodies import Body, ChatBody, CompletionBody
from .catalogue import Catalogue
from .connection import Bodies, BodyTimeout, while_connected
from .errors import ApiError, from_client, from_http, from_timeout, from_validation
from .events import EventStream
from .limits import DEFAULT_LIMITS, Limits


class Gateway:
    """The endpoints. Errors are raised, and turned into responses by the handlers below."""

    def __init__(self, client: AsyncClient, limits: Limits) -> None:
        self._client = client
        self._bodies = Bodies(limits)
        self._catalogue = Catalogue(client)

    async def chat_completions(self, request: Request) -> Response:
        """POST /v1/chat/completions"""
        return await self._answer(request, ChatBody, ChatAnswer)

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions"""
        return await self._answer(request, CompletionBody, CompletionAnswer)

    async def models(self, request: Request) -> Response:
        """GET /v1/models"""
        cards = [served.card() for served in await self._catalogue.all()]
        return JSONResponse({"object": "list", "data": cards})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{id}"""
        return JSONResponse((await self._catalogue.find(request.path_params["id"])).card())

    async def health(self, request: Request) -> Response:
        """GET /health"""
        health = await self._client.health()
        if not (health.ready and health.model_ready):
            raise ServerUnavailable("the server is not ready")
        return JSONResponse({"status": "ok"})

    async def _answer(self, request: Request, body: type[Body], answer: type[Answer]) -> Response:
        async with self._bodies.receive(request) as received:
            return await self._respond(request, body.model_validate_json(received), answer)

    async def _respond(self, request: Request, asked: Body, answer: type[Answer]) -> Response:
        served = await self._catalogue.find(asked.model)
        requests = asked.requests(served)
        written = answer(served.id, include_usage=asked.include_usage)
        if asked.stream:
            stream = self._client.stream(requests[0])
            first = await while_connected(request, anext(stream))
            return EventStream(first, stream, written)
        results = await while_connected(request, self._generate(requests))
        whole = to_json(written.whole(results), inf_nan_mode="null")
        return Response(whole, media_type="application/json")

    async def _generate(self, requests: list[_types.Request]) -> list[Result]:
        """All answers, or the first error, which cancels the other requests."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._client.generate(each)) for each in requests]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]


def create_app(client: AsyncClient, limits: Limits = DEFAULT_LIMITS) -> Starlette:
    """The application; it owns the client and closes it when it stops."""
    gateway = Gateway(client, limits)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    return Starlette(
        routes=[
            Route("/v1/chat/completions", gateway.chat_completions, methods=["POST"]),
            Route("/v1/completions", gateway.completions, methods=["POST"]),
            Route("/v1/models", gateway.models),
            Route("/v1/models/{id:path}", gateway.model),
            Route("/health", gateway.health),
        ],
        exception_handlers={
            ColdClientError: _on_client_error,
            ValidationError: _on_validation_error,
            HTTPException: _on_http_error,
            ClientDisconnect: _on_disconnect,
            BodyTimeout: _on_timeout,
            Exception: _on_bug,
        },
        lifespan=lifespan,
    )


async def _on_client_error(request: Request, error: Any) -> Response:
    return from_client(error).response()


async def _on_validation_error(request: Request, error: Any) -> Response:
    return from_validation(error).response()


async def _on_http_error(request: Request, error: Any) -> Response:
    return from_http(error).response()


async def _on_timeout(request: Request, error: Any) -> Response:
    return from_timeout(str(error)).response()


async def _on_disconnect(request: Request, error: Any) -> Response:
    return Response(status_code=499)  # nginx's, for its log: nobody is there to read it


async def _on_bug(request: Request, error: Any) -> Response:
    message = "the gateway failed; the details are in its log"
    return ApiError(500, message, "server_error", None, "internal").response()
