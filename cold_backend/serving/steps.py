"""Steps between models of tritonserver: `cold` asks for one, the ensemble's models compute it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from typing import Any

from cold_backend.contract import STEP_MODEL, Step, StepResult, result_of, to_tensors
from cold_backend.errors import ColdError, StepError
from cold_backend.serving.outputs import Arrays
from cold_backend.serving.tritonserver import call, error_response, read_tensors, response_of
from cold_backend.telemetry.tracing import child_span, current_headers

_log = logging.getLogger(__name__)


def execute_step(step: Step) -> StepResult:
    """Has the `cold_step` model execute a step.

    Raises:
        StepError: a model of the step failed.
    """
    headers = current_headers()  # an ensemble passes them on to its models
    return result_of(call(STEP_MODEL, to_tensors(step), StepResult.__slots__, headers))


def answer(model: str, requests: Iterable[Any], compute: Callable[[Arrays], Arrays]) -> list[Any]:
    """Answers the requests of a model that gives one response each."""
    return [_answer(model, request, compute) for request in requests]


def _answer(model: str, request: Any, compute: Callable[[Arrays], Arrays]) -> Any:
    try:
        with child_span(model, json.loads(request.parameters())):
            outputs = compute(read_tensors(request))
    except Exception as error:
        # The caller gets a failed step; what happened is for the log alone.
        _log.exception("a step failed")
        message = str(error) if isinstance(error, ColdError) else "internal error"
        return error_response(StepError(message))
    return response_of(outputs)
