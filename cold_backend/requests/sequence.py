"""A request's life: when it came, where it runs, and what is written for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType

from cold_backend.adapters.served import ServedAdapter
from cold_backend.requests.answer import FinishReason, Sink
from cold_backend.requests.beam import BeamSearch
from cold_backend.requests.context import Context
from cold_backend.requests.hypothesis import Hypothesis
from cold_backend.requests.request import GenerationRequest
from cold_backend.requests.token import Continuation, Token
from cold_backend.text.tokenizer import Tokenizer

TraceHeaders = Mapping[str, str]  # W3C's traceparent and tracestate; empty if it is not traced


class Sequence:
    """A request from admission to its end.

    Args:
        request: what was asked for.
        sink: where the answer goes.
        tokenizer: the base model's.
        request_id: what the client calls it.
        trace: which trace it belongs to.
        accepted_s: when the request came; now if it is not said.

    Times are those of time.monotonic, None before what they tell of has happened.
    """

    def __init__(
        self,
        request: GenerationRequest,
        sink: Sink,
        tokenizer: Tokenizer,
        request_id: str = "",
        trace: TraceHeaders = MappingProxyType({}),
        accepted_s: float | None = None,
    ) -> None:
        self.request = request
        self.sink = sink
        self.request_id = request_id
        self.trace = trace
        self.accepted_s = time.monotonic() if accepted_s is None else accepted_s
        self.admitted_s: float | None = None
        self.first_token_s: float | None = None
        self.adapters = tuple(map(ServedAdapter, request.adapter_names))
        self.adapter_indices: tuple[int, ...] = ()  # of these in the models, while it runs
        self.is_running = False
        self.answer = Hypothesis.of(request, tokenizer)  # what is sent
        self.search: BeamSearch[Hypothesis] | None = None
        if request.beam:
            ends = 0 if request.ignore_eos else len(tokenizer.eos_ids)
            self.search = BeamSearch(request.beam, request.max_tokens, ends, self.answer)
            self.answer.candidates = self.search.options
        self._decode = tokenizer.decode

    @property
    def width(self) -> int:
        """Hypotheses that it may have at once."""
        return self.request.width

    @property
    def hypotheses(self) -> list[Hypothesis]:
        """What is fed in a step: the answer itself, or the beams."""
        search = self.search
        return [beam.hypothesis for beam in search.running] if search else [self.answer]

    @property
    def deadline_s(self) -> float:
        """When the answer must be complete; infinity without a deadline."""
        return self.accepted_s + self.request.deadline_s

    @property
    def prompt_text(self) -> str:
        """The prompt as text."""
        return self._decode(list(self.request.prompt))

    @property
    def pending_prompt(self) -> int:
        """Tokens of a prompt that the models have not seen yet."""
        return 0 if self.output_length else self.answer.pending

    @property
    def output_length(self) -> int:
        """Tokens generated so far; with beams, none before the end."""
        return self.answer.output_length

    def begin(self, contexts: tuple[Context, ...], adapter_indices: tuple[int, ...]) -> None:
        """Runs from here on, in contexts without tokens. Mutates: itself."""
        self.is_running, self.adapter_indices = True, adapter_indices
        self.answer.contexts = contexts

    def end(self) -> None:
        """Runs no more. Mutates: itself; what it has written can still be sent."""
        self.is_running, self.adapter_indices = False, ()
        self.answer.contexts, self.search = (), None

    def accept(self, token: Token, now_s: float) -> FinishReason | None:
        """Adds a token to the answer; says whether and why it ends with it. Mutates: the answer."""
        if self.first_token_s is None:
            self.first_token_s = now_s
        return self.answer.accept(token)

    def advance(
        self, search: BeamSearch[Hypothesis], found: list[list[Continuation]], now_s: float
    ) -> list[Token]:
        """Continues the beams; returns the tokens of the best hypothesis when the search is over.

        Mutates: the search, whose beams are forks with their parents' blocks.
        """
        if self.first_token_s is None:
            self.first_token_s = now_s
        return search.ended[0].hypothesis.unsent if search.advance(found, _extend) else []

    def send(self, reason: FinishReason | None) -> None:
        """Sends what is ready: always at the end, before it where text is due in a stream."""
        if reason is not None or (self.request.stream and self.answer.text):
            self.sink.send(self.answer.take(reason))


def _extend(beam: Hypothesis, token: Token) -> tuple[Hypothesis, bool]:
    fork = beam.fork()
    return fork, fork.accept(token) is not None
