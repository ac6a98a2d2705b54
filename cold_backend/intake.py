"""The way of a request from its tensors to the engine's queue."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cold_backend.adapter_catalogue import AdapterCatalogue
from cold_backend.engine import Engine
from cold_backend.errors import ColdError, ShuttingDownError
from cold_backend.fields import Inputs
from cold_backend.request import GenerationRequest, RequestParser
from cold_backend.sequence import Sequence, Sink, TraceHeaders
from cold_backend.telemetry import Telemetry
from cold_backend.tokenizer import Tokenizer

_log = logging.getLogger(__name__)


class Intake:
    """Checks requests and submits them.

    One that asks for an adapter which has to be read first waits for that on a thread of its own,
    so that others do not wait with it.

    Args:
        parser: reads the tensors.
        catalogue: knows the adapters.
        engine: gets the sequences.
        tokenizer: the base model's.
        telemetry: is told of those that are refused.
    """

    def __init__(
        self,
        parser: RequestParser,
        catalogue: AdapterCatalogue,
        engine: Engine,
        tokenizer: Tokenizer,
        telemetry: Telemetry,
    ) -> None:
        self._parser = parser
        self._catalogue = catalogue
        self._engine = engine
        self._tokenizer = tokenizer
        self._telemetry = telemetry
        self._reader = ThreadPoolExecutor(1, "reader")

    def take(
        self,
        inputs: Inputs,
        sink_for: Callable[[GenerationRequest], Sink],
        request_id: str,
        trace: TraceHeaders,
    ) -> None:
        """Accepts a request, whose answer then goes to the sink.

        Raises:
            ColdError: it is refused, and nothing has been sent to a sink.
        """
        request = self._parser.parse(inputs)
        sequence = Sequence(request, sink_for(request), self._tokenizer, request_id, trace)
        if self._catalogue.is_read(request.adapter):
            self._submit(sequence)
            return
        try:
            self._reader.submit(self._read_and_submit, sequence)
        except RuntimeError as error:
            raise ShuttingDownError from error

    def close(self) -> None:
        """Ends what is being read; the engine must be closed already, and refuses it."""
        self._reader.shutdown()

    def _submit(self, sequence: Sequence) -> None:
        sequence.adapter = self._catalogue.find(sequence.request.adapter)
        self._engine.submit(sequence)

    def _read_and_submit(self, sequence: Sequence) -> None:
        try:
            return self._submit(sequence)
        except ColdError as raised:
            error = raised
        except Exception:
            _log.exception("an adapter could not be read")
            error = ColdError("internal error")
        self._telemetry.refused(error, sequence.request_id, sequence.trace)
        sequence.sink.fail(error)
