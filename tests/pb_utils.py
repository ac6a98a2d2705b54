"""A stand-in for tritonserver's `triton_python_backend_utils`, as far as our models use it.

It refuses what the real one refuses, and what would end tritonserver. Besides that API it has
`serve`, for models that others call, and `published`, which is what /metrics would show.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
_CARRIED = "?bhilBHILefdO"  # numpy's letters for the types of tensors


class TritonModelException(Exception):  # noqa: N818
    """What goes wrong between a model and tritonserver."""


class TritonError:
    """An error that a client gets."""

    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS = range(7)
    CANCELLED = 7

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self._message = message
        self._code = code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class Tensor:
    """A named array. Texts become bytes on their way."""

    def __init__(self, name: str, array: npt.NDArray[Any]) -> None:
        if array.dtype.char not in _CARRIED:
            raise TritonModelException(f"{name}: {array.dtype} cannot be carried")
        if array.dtype == object:
            carried = [v if isinstance(v, bytes) else str(v).encode() for v in array.reshape(-1)]
            array = np.array(carried, object).reshape(array.shape)
        self._name = name
        self._array = array.copy()

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> npt.NDArray[Any]:
        return self._array


class InferenceResponse:
    """Tensors, or an error."""

    def __init__(
        self, output_tensors: Iterable[Tensor] = (), error: TritonError | None = None
    ) -> None:
        self._tensors = list(output_tensors)
        self._error = error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


class Sender:
    """Where the responses of a decoupled model go.

    Attributes:
        sent: responses with their flags, those after the final one too.
        ended: since the final one.
        cancelled: whether the client wants no more.
        gone: whether nothing can be sent to it.
    """

    def __init__(self) -> None:
        self.sent: list[tuple[InferenceResponse, int]] = []
        self.ended = threading.Event()
        self.cancelled = False
        self.gone = False

    def is_cancelled(self) -> bool:
        assert not self.ended.is_set(), "asking now ends tritonserver"
        return self.cancelled

    def send(self, response: InferenceResponse, flags: int = 0) -> None:
        if self.gone:
            raise TritonModelException("the client is gone")
        self.sent.append((response, flags))
        if flags == TRITONSERVER_RESPONSE_COMPLETE_FINAL:
            self.ended.set()


class Trace:
    """What tritonserver knows of a request's trace."""

    def __init__(self, context: str | None) -> None:
        self._context = context

    def get_context(self) -> str | None:
        return self._context


class InferenceRequest:
    """A request to a model: one that came, or one that a model sends."""

    def __init__(
        self,
        *,
        inputs: Iterable[Tensor] = (),
        request_id: str = "",
        model_name: str = "",
        requested_output_names: Iterable[str] = (),
        parameters: Mapping[str, Any] | None = None,
        context: str | None = None,
    ) -> None:
        self._inputs = list(inputs)
        self._request_id = request_id
        self._model_name = model_name
        self._names = list(requested_output_names)
        self._parameters = json.dumps(dict(parameters or {}))
        self._context = context
        self.sender = Sender()

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def request_id(self) -> str:
        return self._request_id

    def parameters(self) -> str:
        return self._parameters

    def trace(self) -> Trace:
        return Trace(self._context)

    def get_response_sender(self) -> Sender:
        return self.sender

    def exec(self) -> InferenceResponse:
        response = _served[self._model_name](self)
        if response.has_error():
            return response
        given = {tensor.name(): tensor for tensor in response.output_tensors()}
        return InferenceResponse([given[name] for name in self._names])


class MetricFamily:
    """A family of metrics; each may be registered once."""

    COUNTER, GAUGE, HISTOGRAM = range(3)

    def __init__(self, name: str, description: str, kind: int) -> None:
        assert name not in published, f"{name} is there already"
        assert description
        self.name = name
        self.kind = kind
        published[name] = {}
        alive.add(self)

    def Metric(  # noqa: N802
        self, labels: Mapping[str, str], buckets: Iterable[float] | None = None
    ) -> Metric:
        assert (buckets is not None) == (self.kind == self.HISTOGRAM)
        return Metric(self, tuple(sorted(labels.items())))


class Metric:
    """A metric of a family."""

    def __init__(self, family: MetricFamily, labels: tuple[tuple[str, str], ...]) -> None:
        values = published[family.name]
        assert labels not in values, f"{family.name} has {labels} already"
        self._kind = family.kind
        self._values = values[labels] = [] if family.kind == family.HISTOGRAM else [0.0]
        alive.add(self)

    def increment(self, value: float) -> None:
        assert self._kind == MetricFamily.COUNTER
        assert value >= 0
        self._values[0] += value

    def set(self, value: float) -> None:
        assert self._kind == MetricFamily.GAUGE
        self._values[0] = value

    def observe(self, value: float) -> None:
        assert self._kind == MetricFamily.HISTOGRAM
        self._values.append(value)


# By family and labels: the value, or all that was observed.
published: dict[str, dict[tuple[tuple[str, str], ...], list[float]]] = {}
# Families and metrics that a model still has.
alive: weakref.WeakSet[Any] = weakref.WeakSet()
_served: dict[str, Callable[[InferenceRequest], InferenceResponse]] = {}


def serve(model: str, answer: Callable[[InferenceRequest], InferenceResponse]) -> None:
    """Has a function answer what is sent to a model."""
    _served[model] = answer


def forget() -> None:
    """As in a server that has just been started."""
    published.clear()
    _served.clear()
