"""The way of a request from its tensors to the engine's queue."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from cold_backend.adapters.catalogue import AdapterCatalogue
from cold_backend.adapters.served import ServedAdapter
from cold_backend.engine.engine import CHECK_INTERVAL_S, Engine
from cold_backend.errors import (
    ColdError,
    DeadlineError,
    InvalidRequestError,
    OverloadedError,
    RequestCancelledError,
    ShuttingDownError,
)
from cold_backend.requests.answer import Sink
from cold_backend.requests.fields import Inputs
from cold_backend.requests.parser import RequestParser
from cold_backend.requests.request import Draft, GenerationRequest
from cold_backend.requests.sequence import Sequence, TraceHeaders
from cold_backend.serving.workers import Workers
from cold_backend.telemetry.telemetry import Telemetry
from cold_backend.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

# Longer texts have a thread of their own, so that the others wait for none of them.
_LONG_BYTES = 16384
# The threads take the text that came first, but a longer one as if it had come later by the time
# that it takes at this rate, far below what they do: who sends much text waits behind who sends
# little, and nobody for ever.
_RANK_BYTES_PER_S = 4096
_CLOSE_S = 2.0

Found = dict[str, ServedAdapter]  # by name


class Reply(Protocol):
    """Where the answer goes to a request that is not complete yet."""

    def sink_for(self, request: GenerationRequest) -> Sink:
        """Where it goes from now on."""
        ...

    def fail(self, error: ColdError) -> None:
        """Ends the request with an error."""
        ...

    def is_cancelled(self) -> bool:
        """Whether the client no longer wants the answer."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A request that was accepted and is not in the engine's queue yet.

    Attributes:
        accepted_s: when it came, as of time.monotonic.
    """

    draft: Draft
    reply: Reply
    request_id: str
    trace: TraceHeaders
    accepted_s: float

    @property
    def request(self) -> GenerationRequest:
        """What is known of it, see `Draft`."""
        return self.draft.request


class Intake:
    """Checks requests, finds their adapters, tokenises them and submits them.

    What takes no time is done where they are accepted, which one thread does for all: a request
    that asks for what is not allowed, or that could not be served in time, is refused there.
    Adapters are read and text is tokenised beside it. Until it is in the queue a request counts as
    waiting, and whoever takes its arrival out ends it, so it ends once.

    Args:
        parser: reads the tensors.
        catalogue: knows the adapters.
        engine: gets the sequences.
        tokenizer: the base model's.
        telemetry: is told of those that are refused.
        max_wait_s: seconds that a request may wait, here and in the queue.
    """

    def __init__(
        self,
        parser: RequestParser,
        catalogue: AdapterCatalogue,
        engine: Engine,
        tokenizer: Tokenizer,
        telemetry: Telemetry,
        max_wait_s: float,
    ) -> None:
        self._parser = parser
        self._catalogue = catalogue
        self._engine = engine
        self._tokenizer = tokenizer
        self._telemetry = telemetry
        self._max_wait_s = max_wait_s
        self._arrivals: set[Arrival] = set()
        self._changed = threading.Condition()
        self._closing = False
        self._tokenisers = Workers("tokeniser", 1)
        self._long_tokenisers = Workers("long tokeniser", 1)
        self._watcher = threading.Thread(target=self._watch, name="arrivals", daemon=True)
        self._watcher.start()

    def take(
        self,
        inputs: Inputs,
        reply: Reply,
        request_id: str,
        trace: TraceHeaders,
        accepted_s: float,
    ) -> None:
        """Accepts a request, which is then answered through `reply`.

        Args:
            accepted_s: when it came, as of time.monotonic.

        Raises:
            ColdError: it is refused, and nothing has been sent.
        """
        draft = self._parser.check(inputs)
        found = self._known(draft)
        arrival = Arrival(draft, reply, request_id, trace, accepted_s)
        self._engine.announce(arrival)
        with self._changed:
            closing = self._closing
            if not closing:
                self._arrivals.add(arrival)
                self._changed.notify()
        if closing:
            self._engine.withdraw()
            raise ShuttingDownError
        try:
            self._find(arrival, found)
        except BaseException:
            if self._take_out(arrival):
                self._engine.withdraw()
                raise

    def close(self) -> None:
        """Ends what has arrived; the engine must be closed already."""
        with self._changed:
            self._closing = True
            arrivals = [*self._arrivals]
            self._changed.notify()
        for arrival in arrivals:
            self._refuse(arrival, ShuttingDownError())
        for workers in (self._tokenisers, self._long_tokenisers):
            workers.close(_CLOSE_S)
        self._watcher.join()

    def _known(self, draft: Draft) -> Found:
        """The first adapters, as far as they can be told at once. Raises what is known against one
        of them."""
        found: Found = {}
        while (name := draft.missing(found)) is not None:
            try:
                adapter = self._catalogue.known(name)
            except InvalidRequestError as error:
                raise draft.blame(name, error) from error
            if adapter is None:
                break
            found[name] = adapter
        return found

    def _find(self, arrival: Arrival, found: Found) -> None:
        """Has the other adapters read, one after another, and the text tokenised after them."""
        name = arrival.draft.missing(found)
        if name is None:
            self._tokenise_later(arrival, found)
        else:
            reading = self._catalogue.reading(name)
            reading.add_done_callback(partial(self._read, arrival, found, name))

    def _read(
        self, arrival: Arrival, found: Found, name: str, reading: Future[ServedAdapter]
    ) -> None:
        error = reading.exception()
        if error is None:
            self._find(arrival, {**found, name: reading.result()})
        elif isinstance(error, InvalidRequestError):
            self._refuse(arrival, arrival.draft.blame(name, error))
        else:
            self._refuse(arrival, told(error))

    def _tokenise_later(self, arrival: Arrival, found: Found) -> None:
        size = arrival.draft.text_bytes
        workers = self._tokenisers if size <= _LONG_BYTES else self._long_tokenisers
        rank = arrival.accepted_s + size / _RANK_BYTES_PER_S
        workers.put(rank, partial(self._tokenise, arrival, found))

    def _tokenise(self, arrival: Arrival, found: Found) -> None:
        """Makes the request complete, unless it has ended or should."""
        try:
            if arrival in self._arrivals:
                self._check_wanted(arrival)
                self._submit(arrival, found)
        except Exception as error:
            self._refuse(arrival, told(error))

    def _submit(self, arrival: Arrival, found: Found) -> None:
        request = self._parser.complete(arrival.draft, arrival.draft.defaults(found))
        sequence = Sequence(
            request,
            arrival.reply.sink_for(request),
            self._tokenizer,
            arrival.request_id,
            arrival.trace,
            arrival.accepted_s,
        )
        sequence.adapters = tuple(found[name] for name in request.adapter_names)
        if self._take_out(arrival):
            try:
                self._engine.enter(sequence)
            except Exception as error:
                self._tell(arrival, told(error))

    def _check_wanted(self, arrival: Arrival) -> None:
        """Raises what ends a request that has waited for too long or that nobody waits for."""
        waited_s = time.monotonic() - arrival.accepted_s
        if arrival.reply.is_cancelled():
            raise RequestCancelledError
        if waited_s > arrival.request.deadline_s:
            raise DeadlineError(arrival.request.deadline_s)
        if waited_s > self._max_wait_s:
            raise OverloadedError(f"it could not be read within {self._max_wait_s:g} s", waited_s)

    def _watch(self) -> None:
        """Ends what is no longer wanted while it waits here."""
        while not self._closing:
            with self._changed:
                self._changed.wait_for(lambda: self._arrivals or self._closing)
                self._changed.wait_for(lambda: self._closing, CHECK_INTERVAL_S)
                arrivals = [*self._arrivals]
            for arrival in arrivals:
                try:
                    self._check_wanted(arrival)
                except Exception as error:
                    self._refuse(arrival, told(error))

    def _refuse(self, arrival: Arrival, error: ColdError) -> None:
        if self._take_out(arrival):
            self._engine.withdraw()
            self._tell(arrival, error)

    def _tell(self, arrival: Arrival, error: ColdError) -> None:
        self._telemetry.refused(error, arrival.request_id, arrival.trace)
        arrival.reply.fail(error)

    def _take_out(self, arrival: Arrival) -> bool:
        """Whether it was still there: who takes it out ends it."""
        with self._changed:
            if arrival not in self._arrivals:
                return False
            self._arrivals.remove(arrival)
            return True


def told(error: BaseException) -> ColdError:
    """What the client is told of an error."""
    if isinstance(error, ColdError):
        return error
    _log.error("a request failed", exc_info=error)
    return ColdError("internal error")
