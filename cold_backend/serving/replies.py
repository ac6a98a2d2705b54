"""Requests of `cold`: handed on as they come, and answered piece by piece."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from cold_backend.errors import ColdError
from cold_backend.requests.answer import Piece
from cold_backend.requests.request import GenerationRequest
from cold_backend.serving.cancellation import Cancellation
from cold_backend.serving.intake import Intake, told
from cold_backend.serving.outbox import Outbox
from cold_backend.serving.outputs import outputs_of
from cold_backend.serving.tritonserver import error_response, read_tensors, response_of, send
from cold_backend.telemetry.telemetry import Telemetry
from cold_backend.text.tokenizer import Tokenizer


def accept(
    request: Any,
    accepted_s: float,
    intake: Intake,
    outbox: Outbox,
    telemetry: Telemetry,
    tokenizer: Tokenizer,
) -> None:
    """Hands a request of `cold` on, which came at `accepted_s`; refuses it if that raises."""
    request_id = request.request_id()
    reply = TensorReply(request.get_response_sender(), outbox, tokenizer)
    trace: dict[str, str] = {}
    try:
        # tritonserver's own trace must not be used once `execute` has returned; its context may.
        trace = json.loads(request.trace().get_context() or "{}")
        return intake.take(read_tensors(request), reply, request_id, trace, accepted_s)
    except Exception as raised:
        error = told(raised)
    telemetry.refused(error, request_id, trace)
    reply.refuse(error)


class TensorReply:
    """Answers a request of `cold`: a `Reply`, and then the request's `Sink`.

    Args:
        sender: the request's response sender.
        outbox: what sends for it.
        tokenizer: the base model's.
    """

    def __init__(self, sender: Any, outbox: Outbox, tokenizer: Tokenizer) -> None:
        self._sender = sender
        self._outbox = outbox
        self._tokenizer = tokenizer
        self._request: Any = None
        self._cancellation = Cancellation(sender.is_cancelled)

    def sink_for(self, request: GenerationRequest) -> TensorReply:
        """See `Reply`."""
        self._request = request
        return self

    def send(self, piece: Piece) -> None:
        """See `Sink`."""
        self._outbox.put(partial(self._send_piece, piece))

    def fail(self, error: ColdError) -> None:
        """See `Reply` and `Sink`."""
        self._outbox.put(partial(self.refuse, error))

    def is_cancelled(self) -> bool:
        """See `Reply` and `Sink`."""
        return self._cancellation.is_asked_for()

    def refuse(self, error: ColdError) -> None:
        """Ends the request with an error, at once."""
        self._respond(error_response(error), final=True)

    def _send_piece(self, piece: Piece) -> None:
        try:
            outputs = outputs_of(piece, self._request, self._tokenizer)
            response = response_of({name: array[None] for name, array in outputs.items()})
        except Exception as error:
            return self.refuse(told(error))
        self._respond(response, final=piece.finish_reason is not None)

    def _respond(self, response: Any, *, final: bool) -> None:
        if self._cancellation.has_ended:
            return
        if final:
            self._cancellation.end()
        send(self._sender, response, final=final)
