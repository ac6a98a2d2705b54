"""The way of a request from its tensors to the engine's queue."""

from __future__ import annotations

import time
from collections.abc import Callable

from cold_backend.adapter_catalogue import AdapterCatalogue, ServedAdapter
from cold_backend.engine import Engine
from cold_backend.errors import ColdError
from cold_backend.fields import Inputs
from cold_backend.lobby import Lobby, Waiter
from cold_backend.request import GenerationRequest, RequestParser
from cold_backend.sequence import Sequence, Sink, TraceHeaders
from cold_backend.telemetry import Telemetry
from cold_backend.tokenizer import Tokenizer


class Intake:
    """Checks requests and submits them.

    One that asks for an adapter whose files have to be looked at waits for that beside the others.

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
        self._lobby = Lobby()

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

        def submit(served: ServedAdapter) -> None:
            request = self._parser.parse(inputs, served.defaults)
            sequence = Sequence(request, sink_for(request), self._tokenizer, request_id, trace)
            if request.adapter:
                sequence.adapter = served
            self._engine.submit(sequence)

        def refuse(error: ColdError) -> None:
            self._telemetry.refused(error, request_id, trace)
            sink.fail(error)

        name = self._parser.adapter_name(inputs)
        served = self._catalogue.known(name)
        if served is not None:
            return submit(served)
        # What the adapter's own defaults are is not known yet; all else is checked now.
        request = self._parser.parse(inputs)
        sink = sink_for(request)
        inputs = {field: array.copy() for field, array in inputs.items()}
        now_s = time.monotonic()
        waiter = Waiter(now_s, request.deadline_s, sink.is_cancelled, submit, refuse)
        self._lobby.wait(waiter, self._catalogue.reading(name))

    def close(self) -> None:
        """Ends what still waits; the engine must be closed already, and refuses the rest."""
        self._lobby.close()
