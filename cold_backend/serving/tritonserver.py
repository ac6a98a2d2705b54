"""tritonserver's Python-backend API in our terms: tensors, responses, errors, models, metrics.

The only module that imports that API.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

from cold_backend.errors import ColdError, ErrorCode, StepError
from cold_backend.serving.outputs import Arrays
from cold_backend.telemetry.metrics import Family

_log = logging.getLogger(__name__)
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


def response_of(outputs: Arrays) -> Any:
    """A response with output tensors by name."""
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(name, array) for name, array in outputs.items()]
    )


def error_response(error: ColdError) -> Any:
    """A response that tells an error."""
    # The code is in the text too: a gRPC stream carries no code, and HTTP's status is coarse.
    text = f"{error} [{error.code.value}]"
    code = getattr(pb_utils.TritonError, _CODES[error.code])
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))


def send(sender: Any, response: Any, *, final: bool) -> None:
    """Sends a response of a decoupled model; after a final one nothing may follow."""
    try:
        sender.send(response, flags=_FINAL if final else 0)
    except pb_utils.TritonModelException:
        # The client is gone; the sequence goes on to its own end.
        _log.warning("a response could not be sent", exc_info=True)


def call(
    model: str, inputs: Arrays, outputs: Iterable[str], parameters: Mapping[str, str]
) -> Arrays:
    """Has another model answer a request; its outputs by name.

    Raises:
        StepError: it failed.
    """
    request = pb_utils.InferenceRequest(
        model_name=model,
        requested_output_names=list(outputs),
        inputs=[pb_utils.Tensor(name, array) for name, array in inputs.items()],
        parameters=parameters,
    )
    response = request.exec()
    if response.has_error():
        raise StepError(response.error().message())
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


def register(family: Family) -> Any:
    """Makes a family of metrics known; a name may be registered once."""
    kind = getattr(pb_utils.MetricFamily, family.kind.name)
    return pb_utils.MetricFamily(name=family.name, description=family.help, kind=kind)
