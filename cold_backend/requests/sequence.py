"""One running generation: its tokens, its text, and what the client has been sent."""

from __future__ import annotations

import copy
import enum
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from cold_backend.adapters.served import ServedAdapter
from cold_backend.errors import ColdError
from cold_backend.requests.beam import BeamSearch, place
from cold_backend.requests.request import GenerationRequest
from cold_backend.requests.token import Continuation, Token
from cold_backend.text.detokenizer import StopWords
from cold_backend.text.tokenizer import Tokenizer

TraceHeaders = Mapping[str, str]  # W3C's traceparent and tracestate; empty if it is not traced


class FinishReason(enum.Enum):
    """Why a sequence ended."""

    STOP = "stop"  # end of sequence, or a stop word
    LENGTH = "length"  # max_tokens
    CANCELLED = "cancelled"  # the client went away


@dataclass(frozen=True, slots=True)
class Piece:
    """What one response carries: text and tokens since the last one."""

    text: str
    tokens: tuple[Token, ...]
    finish_reason: FinishReason | None


class Sink(Protocol):
    """Where a sequence's pieces go. Exactly one final piece or failure ends it."""

    def send(self, piece: Piece) -> None:
        """Sends a piece; one with a finish reason is final."""
        ...

    def fail(self, error: ColdError) -> None:
        """Ends the request with an error."""
        ...

    def is_cancelled(self) -> bool:
        """Whether the client no longer wants the answer."""
        ...


class Sequence:
    """A request from admission to its end.

    A beam is a sequence too, with a slot and tokens of its own, forked from the request's, which
    is the one that has a search and that alone sends. Its `search` then has the beams.

    Args:
        request: what was asked for.
        sink: where the answer goes.
        tokenizer: the base model's.
        request_id: what the client calls it.
        trace: which trace it belongs to.
        accepted_s: when the request came; now if it is not said.

    Times are those of time.monotonic, NaN before what they tell of has happened.
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
        self.admitted_s = self.first_token_s = float("nan")
        self.slots: list[int] = []  # all that it has
        self.slot = -1  # the one that its tokens are fed to
        self.copied_from: tuple[int, int] | None = (
            None  # what `slot` needs: a slot, the first token
        )
        self._owner: Sequence | None = None  # of a beam
        self.adapter = ServedAdapter(request.adapter)
        self.adapter_index = -1  # in the models, while it has a slot
        self.fed = 0  # tokens that the KV cache holds
        self.tokens = list(request.prompt)
        self._eos_ids = tokenizer.eos_ids
        self._decode = tokenizer.decode
        self._detokenizer = tokenizer.detokenizer(request.prompt)
        self._stop_words = StopWords(request.stop_words)
        self._counts = Counter(dict.fromkeys(request.prompt, 0))
        self._text = request.echo  # not sent yet
        self._unsent: list[Token] = []
        self.search: BeamSearch[Sequence] | None = None
        if request.beam:
            ends = 0 if request.ignore_eos else len(self._eos_ids)
            self.search = BeamSearch(request.beam, request.max_tokens, ends, self)
        self._prompted: set[int] = set()  # slots that hold the prompt, if there are beams

    @property
    def width(self) -> int:
        """Slots that it needs."""
        return self.request.width

    @property
    def rows(self) -> list[Sequence]:
        """What is fed in a step: the sequence itself, or its beams."""
        search = self.search
        return [beam.hypothesis for beam in search.running] if search else [self]

    @property
    def owner(self) -> Sequence:
        """The request's sequence: itself, unless it is a beam."""
        return self._owner or self

    @property
    def deadline_s(self) -> float:
        """When the answer must be complete; infinity without a deadline."""
        return self.accepted_s + self.request.deadline_s

    @property
    def prompt_text(self) -> str:
        """The prompt as text."""
        return self._decode(list(self.request.prompt))

    @property
    def pending(self) -> int:
        """Tokens that the models have not seen yet: a prompt's rest, or the newest token."""
        return len(self.tokens) - self.fed

    @property
    def pending_prompt(self) -> int:
        """Those of them that belong to the prompt."""
        return max(0, len(self.request.prompt) - self.fed)

    @property
    def output_length(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def given(self) -> int:
        """The token that must come next; -1 if the models choose it."""
        continuation = self.request.continuation
        return continuation[self.output_length] if continuation else -1

    @property
    def banned(self) -> list[int]:
        """Tokens that must not come next."""
        banned = [
            word[-1]
            for word in self.request.bad_words
            if len(word) - 1 <= self.output_length and self._ends_with(word[:-1])
        ]
        if self.output_length < self.request.min_tokens:
            banned += self._eos_ids
        return banned

    @property
    def counts(self) -> Counter[int]:
        """How often each token stands in the output; tokens of the prompt alone have 0."""
        return self._counts

    def accept(self, token: Token, now_s: float) -> FinishReason | None:
        """Adds the picked token; says whether and why the sequence ends with it.

        Mutates: tokens and the text to be sent.
        """
        if math.isnan(self.first_token_s):
            self.first_token_s = now_s
        self.tokens.append(token.id)
        self._counts[token.id] += 1
        self._unsent.append(token)
        if token.id in self._eos_ids and not self.request.ignore_eos:
            self._text += self._stop_words.flush()
            return FinishReason.STOP
        if self._add_text(self._detokenizer.push(token.id)):
            return FinishReason.STOP
        if self.output_length >= self.request.max_tokens:
            self._text += self._stop_words.flush()
            return FinishReason.LENGTH
        return None

    def advance(
        self, search: BeamSearch[Sequence], found: list[list[Continuation]], now_s: float
    ) -> list[Token]:
        """Continues the beams; returns the tokens of the best hypothesis when the search is over.

        Mutates: the search, and its beams' slots.
        """
        if math.isnan(self.first_token_s):
            self.first_token_s = now_s

        def extend(beam: Sequence, token: Token) -> tuple[Sequence, bool]:
            fork = beam._fork()
            return fork, fork.accept(token, now_s) is not None

        self._prompted.add(self.slot)
        if search.advance(found, extend):
            return search.ended[0].hypothesis._unsent
        beams = self.rows
        for beam, slot in zip(beams, place([b.slot for b in beams], self.slots), strict=True):
            if slot != beam.slot:
                start = len(self.request.prompt) if slot in self._prompted else 0
                beam.copied_from = (beam.slot, start)
                beam.slot = slot
                self._prompted.add(slot)
        return []

    def send(self, reason: FinishReason | None) -> None:
        """Sends what is ready: always at the end, before it where text is due in a stream."""
        if reason is None and not (self.request.stream and self._text):
            return
        piece = Piece(self._text, tuple(self._unsent), reason)
        self._text, self._unsent = "", []
        self.sink.send(piece)

    def _fork(self) -> Sequence:
        """Another that has got so far and goes on by itself, in the same slot."""
        fork = copy.copy(self)
        fork.copied_from = fork.search = None
        fork._owner = self.owner
        fork.tokens = [*self.tokens]
        fork._unsent = [*self._unsent]
        fork._counts = Counter()  # beams have no penalties
        fork._detokenizer = self._detokenizer.fork()
        fork._stop_words = self._stop_words.fork()
        return fork

    def _add_text(self, piece: str) -> bool:
        """Adds text to be sent; returns whether a stop word ends it."""
        if self.output_length < self.request.min_tokens:
            self._text += piece
            return False
        safe, stopped = self._stop_words.push(piece)
        self._text += safe
        return stopped

    def _ends_with(self, ids: tuple[int, ...]) -> bool:
        return not ids or tuple(self.tokens[-len(ids) :]) == ids
