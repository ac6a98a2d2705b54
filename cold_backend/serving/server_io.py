"""Between tritonserver and the rest: tensors and dataclasses, errors, responses.

The only module that imports tritonserver's Python-backend API.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import triton_python_backend_utils as pb_utils

from cold_backend.contract import STEP_MODEL, Step, StepResult, result_of, to_tensors
from cold_backend.errors import ColdError, ErrorCode, StepError
from cold_backend.requests.answer import Piece
from cold_backend.requests.request import GenerationRequest
from cold_backend.serving.cancellation import Cancellation
from cold_backend.serving.intake import Intake, told
from cold_backend.serving.outbox import Outbox
from cold_backend.serving.outputs import Arrays, outputs_of
from cold_backend.telemetry.load import Load
from cold_backend.telemetry.metrics import FAMILIES, Family, Labels
from cold_backend.telemetry.telemetry import Telemetry
from cold_backend.telemetry.tracing import child_span, current_headers
from cold_backend.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)
PUBLISH_INTERVAL_S = 0.5
_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
# By name: tritonserver completes its module only after the models have been imported.
_CODES = {
    ErrorCode.INVALID_ARGUMENT: "INVALID_ARG",
    ErrorCode.NOT_FOUND: "NOT_FOUND",
    ErrorCode.UNAVAILABLE: "UNAVAILABLE",
    ErrorCode.DEADLINE_EXCEEDED: "UNAVAILABLE",  # tritonserver has no code of that name
    ErrorCode.CANCELLED: "CANCELLED",
    ErrorCode.INTERNAL: "INTERNAL",
}


def read_tensors(request: Any) -> Arrays:
    """A request's input tensors by name; those that a client left out are absent."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


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


def answer(model: str, requests: Iterable[Any], compute: Callable[[Arrays], Arrays]) -> list[Any]:
    """Answers the requests of a model that gives one response each."""
    return [_answer(model, request, compute) for request in requests]


def execute_step(step: Step) -> StepResult:
    """Has the `cold_step` model execute a step.

    Raises:
        StepError: a model of the step failed.
    """
    request = pb_utils.InferenceRequest(
        model_name=STEP_MODEL,
        requested_output_names=list(StepResult.__slots__),
        inputs=[pb_utils.Tensor(name, array) for name, array in to_tensors(step).items()],
        parameters=current_headers(),  # an ensemble passes them on to its models
    )
    response = request.exec()
    if response.has_error():
        raise StepError(response.error().message())
    return result_of({tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()})


class Publisher:
    """Hands metrics to tritonserver, on a thread of its own.

    Args:
        telemetry: has the metrics.
        load: says how busy the engine is.
    """

    def __init__(self, telemetry: Telemetry, load: Callable[[], Load]) -> None:
        self._telemetry = telemetry
        self._load = load
        self._families = {family: _register(family) for family in FAMILIES}
        self._metrics: dict[tuple[Family, Labels], Any] = {}
        self._closing = threading.Event()
        self._publish()  # a server that is ready has its metrics
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Publishes for the last time."""
        self._closing.set()
        self._thread.join()
        # Their destructors write to tritonserver. When Python itself ends there is nothing left to
        # write to, and the process would end with signal 11.
        self._metrics.clear()
        self._families.clear()

    def _run(self) -> None:
        closing = False
        while not closing:
            # Every value is a round trip to tritonserver's process.
            closing = self._closing.wait(PUBLISH_INTERVAL_S)
            self._publish()

    def _publish(self) -> None:
        self._telemetry.sample(self._load())
        changes = self._telemetry.metrics.take()
        for (family, labels), value in changes.counts.items():
            self._metric(family, labels).increment(value)
        for family, level in changes.gauges.items():
            self._metric(family).set(level)
        for family, values in changes.observations.items():
            for seconds in values:
                self._metric(family).observe(seconds)

    def _metric(self, family: Family, labels: Labels = ()) -> Any:
        if (family, labels) not in self._metrics:
            named = dict(zip(family.labels, labels, strict=True))
            buckets = {"buckets": list(family.buckets)} if family.buckets else {}
            self._metrics[family, labels] = self._families[family].Metric(labels=named, **buckets)
        return self._metrics[family, labels]


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
        self._respond(pb_utils.InferenceResponse(error=_triton_error(error)), final=True)

    def _send_piece(self, piece: Piece) -> None:
        try:
            outputs = outputs_of(piece, self._request, self._tokenizer)
            tensors = [pb_utils.Tensor(name, array[None]) for name, array in outputs.items()]
        except Exception as error:
            return self.refuse(told(error))
        self._respond(pb_utils.InferenceResponse(tensors), final=piece.finish_reason is not None)

    def _respond(self, response: Any, *, final: bool) -> None:
        if self._cancellation.has_ended:
            return
        if final:
            self._cancellation.end()
        try:
            self._sender.send(response, flags=_FINAL if final else 0)
        except pb_utils.TritonModelException:
            # The client is gone; the sequence goes on to its own end.
            _log.warning("a response could not be sent", exc_info=True)


def _answer(model: str, request: Any, compute: Callable[[Arrays], Arrays]) -> Any:
    try:
        with child_span(model, json.loads(request.parameters())):
            outputs = compute(read_tensors(request))
    except Exception as error:
        # The caller gets a failed step; what happened is for the log alone.
        _log.exception("a step failed")
        message = str(error) if isinstance(error, ColdError) else "internal error"
        return pb_utils.InferenceResponse(error=_triton_error(StepError(message)))
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(name, array) for name, array in outputs.items()]
    )


def _register(family: Family) -> Any:
    kind = getattr(pb_utils.MetricFamily, family.kind.name)
    return pb_utils.MetricFamily(name=family.name, description=family.help, kind=kind)


def _triton_error(error: ColdError) -> Any:
    # The code is in the text too: a gRPC stream carries no code, and HTTP's status is coarse.
    text = f"{error} [{error.code.value}]"
    return pb_utils.TritonError(text, getattr(pb_utils.TritonError, _CODES[error.code]))
