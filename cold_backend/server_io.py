"""Between tritonserver and the rest: tensors and dataclasses, errors, responses.

The only module that imports tritonserver's Python-backend API.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from cold_backend.config import Settings, load_settings
from cold_backend.contract import STEP_MODEL, Step, StepResult
from cold_backend.errors import ColdError, ErrorCode, StepError
from cold_backend.request import GenerationRequest
from cold_backend.sequence import Piece, Token

Arrays = dict[str, npt.NDArray[Any]]

_log = logging.getLogger(__name__)
_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
# By name: tritonserver completes its module only after the models have been imported.
_CODES = {
    ErrorCode.INVALID_ARGUMENT: "INVALID_ARG",
    ErrorCode.NOT_FOUND: "NOT_FOUND",
    ErrorCode.UNAVAILABLE: "UNAVAILABLE",
    ErrorCode.CANCELLED: "CANCELLED",
    ErrorCode.INTERNAL: "INTERNAL",
}


def start(args: dict[str, str]) -> Settings:
    """Sets up logging and reads the settings that `cold-server` names in the model's config.

    Args:
        args: of `initialize`.

    Raises:
        ConfigError: the settings are unreadable.
    """
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format=f"{args['model_name']}: %(message)s"
    )
    return load_settings(Path(_parameter(args, "settings")))


def when_server_stops(args: dict[str, str], act: Callable[[], None]) -> None:
    """Calls `act` on a thread of its own when `cold-server` begins to stop.

    tritonserver itself would first wait for the very streams that have to be ended. So
    `cold-server` keeps a named pipe open whose end is the signal, and waits until the pipe is
    removed, which says that `act` is done.
    """
    path = Path(_parameter(args, "lifeline"))

    def watch() -> None:
        with path.open("rb") as pipe:
            pipe.read()
        act()
        path.unlink(missing_ok=True)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def read_tensors(request: Any) -> Arrays:
    """A request's input tensors by name; those that a client left out are absent."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def accept(request: Any, take: Callable[[Arrays, Any], None]) -> None:
    """Hands a request of `cold` on, with its response sender; refuses it if that raises."""
    sender = request.get_response_sender()
    try:
        take(read_tensors(request), sender)
    except ColdError as error:
        refuse(sender, error)
    except Exception:
        _log.exception("a request could not be accepted")
        refuse(sender, ColdError("internal error"))


def answer(requests: Iterable[Any], compute: Callable[[Arrays], Arrays]) -> list[Any]:
    """Answers the requests of a model that gives one response each."""
    return [_answer(request, compute) for request in requests]


def read_step(arrays: Arrays) -> Step:
    """A step from the tensors of the step contract; a part that the model lacks is empty."""
    nothing: Any = np.empty(0)
    return Step(**{name: arrays.get(name, nothing) for name in Step.__slots__})


def execute_step(step: Step) -> StepResult:
    """Has the `cold_step` model execute a step.

    Raises:
        StepError: a model of the step failed.
    """
    request = pb_utils.InferenceRequest(
        model_name=STEP_MODEL,
        requested_output_names=list(StepResult.__slots__),
        inputs=[pb_utils.Tensor(name, getattr(step, name)) for name in Step.__slots__],
    )
    response = request.exec()
    if response.has_error():
        raise StepError(response.error().message())
    outputs = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
    return StepResult(**outputs)


class Outbox:
    """Sends responses in order, on a thread of its own.

    Each is a round trip to tritonserver's process, and the engine need not wait for it.
    """

    def __init__(self) -> None:
        self._sender = ThreadPoolExecutor(1, "outbox")

    def put(self, send: Callable[[], None]) -> None:
        """Has something sent after everything before it."""
        self._sender.submit(send)

    def close(self) -> None:
        """Returns when everything is sent."""
        self._sender.shutdown()


class ResponseSink:
    """Sends a sequence's pieces as responses of `cold`.

    Args:
        sender: the request's response sender.
        request: which outputs the client wants.
        outbox: what sends them.
    """

    def __init__(self, sender: Any, request: GenerationRequest, outbox: Outbox) -> None:
        self._sender = sender
        self._request = request
        self._outbox = outbox

    def send(self, piece: Piece) -> None:
        """See `Sink`."""
        self._outbox.put(partial(_send_piece, self._sender, self._request, piece))

    def fail(self, error: ColdError) -> None:
        """See `Sink`."""
        self._outbox.put(partial(refuse, self._sender, error))

    def is_cancelled(self) -> bool:
        """See `Sink`."""
        return bool(self._sender.is_cancelled())


def refuse(sender: Any, error: ColdError) -> None:
    """Ends a request of `cold` with an error."""
    _send(sender, pb_utils.InferenceResponse(error=_triton_error(error)), _FINAL)


def _send_piece(sender: Any, request: GenerationRequest, piece: Piece) -> None:
    outputs = _outputs(piece, request)
    response = pb_utils.InferenceResponse(
        [pb_utils.Tensor(name, array[None]) for name, array in outputs.items()]
    )
    _send(sender, response, _FINAL if piece.finish_reason else 0)


def _send(sender: Any, response: Any, flags: int) -> None:
    try:
        sender.send(response, flags=flags)
    except pb_utils.TritonModelException:
        # The client is gone; the sequence goes on to its own end.
        _log.warning("a response could not be sent", exc_info=True)


def _answer(request: Any, compute: Callable[[Arrays], Arrays]) -> Any:
    try:
        outputs = compute(read_tensors(request))
    except Exception as error:
        # The caller gets a failed step; what happened is for the log alone.
        _log.exception("a step failed")
        message = str(error) if isinstance(error, ColdError) else "internal error"
        return pb_utils.InferenceResponse(error=_triton_error(StepError(message)))
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(name, array) for name, array in outputs.items()]
    )


def _triton_error(error: ColdError) -> Any:
    # The code is in the text too: a gRPC stream carries no code, and HTTP's status is coarse.
    text = f"{error} [{error.code.value}]"
    return pb_utils.TritonError(text, getattr(pb_utils.TritonError, _CODES[error.code]))


def _parameter(args: dict[str, str], name: str) -> str:
    value: str = json.loads(args["model_config"])["parameters"][name]["string_value"]
    return value


def _outputs(piece: Piece, request: GenerationRequest) -> Arrays:
    """The outputs of one response, without the batch dimension. See docs/protocol.md."""
    tokens = piece.tokens
    outputs: Arrays = {
        "text_output": np.array([piece.text], object),
        "token_ids": np.array([t.id for t in tokens], np.int64),
    }
    if request.return_finish_reason and piece.finish_reason:
        outputs["finish_reason"] = np.array([piece.finish_reason.value], object)
    if request.return_num_input_tokens:
        outputs["num_input_tokens"] = np.array([len(request.prompt)], np.int32)
    if request.return_num_output_tokens:
        outputs["num_output_tokens"] = np.array([len(tokens)], np.int32)
    if request.return_log_probs:
        of_base = request.adapter < 0
        outputs["output_log_probs"] = np.array(
            [t.base_log_prob if of_base else t.expert_log_prob for t in tokens], np.float32
        )
    if request.return_contrast:
        outputs |= _contrast(tokens)
    return outputs


def _contrast(tokens: tuple[Token, ...]) -> Arrays:
    return {
        "contrast_expert_log_probs": np.array([t.expert_log_prob for t in tokens], np.float32),
        "contrast_base_log_probs": np.array([t.base_log_prob for t in tokens], np.float32),
        "contrast_valid_counts": np.array([t.valid_count for t in tokens], np.int32),
        "contrast_changed": np.array([t.id != t.expert_token for t in tokens], np.bool_),
    }
