"""CoLD in this process, without a server: `from cold_backend import Cold`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

from cold_backend.config import Settings
from cold_backend.contract import Step, StepResult
from cold_backend.engine.engine import Engine
from cold_backend.errors import ColdError, UnknownAdapterError
from cold_backend.loading import load_fused, load_tokenizer
from cold_backend.requests.answer import FinishReason, Piece
from cold_backend.requests.parser import RequestParser
from cold_backend.requests.python_values import inputs_of
from cold_backend.requests.request import GenerationRequest
from cold_backend.requests.sequence import Sequence as Running
from cold_backend.requests.token import Token
from cold_backend.telemetry.telemetry import Telemetry

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]

_JSON = frozenset(("amateur_messages", "logit_bias"))

# Nobody else waits behind what a program asks for.
_MAX_QUEUE = 1 << 20
_MAX_WAIT_S = 86400.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Attributes:
        text: without what ended it.
        tokens: with what is known of each, an end-of-sequence token included.
        finish_reason: why it ended.
        ttft_s: seconds from the call to the first piece, which is the first token's in a stream.
        latency_s: seconds from the call to the last.
        cached_tokens: of the prompt, those that had been computed before.
    """

    text: str
    tokens: tuple[Token, ...]
    finish_reason: FinishReason | None
    ttft_s: float
    latency_s: float
    cached_tokens: int


class Cold:
    """A base model and its adapters, loaded once, for one thread at a time.

    Attributes:
        tokenizer: the base model's.

    Args:
        base_model: directory of a Hugging Face model.
        adapters: PEFT LoRA directories by name.
        settings: fields of `Settings`, as `dtype` or `max_sequences`.

    Raises:
        ConfigError: a model or an adapter cannot be used.
    """

    def __init__(
        self, base_model: str, adapters: Mapping[str, str] | None = None, **settings: Any
    ) -> None:
        self._begin(Settings(base_model=base_model, adapters=dict(adapters or {}), **settings))

    @classmethod
    def over(cls, settings: Settings, execute: Callable[[Step], StepResult]) -> Cold:
        """Over what executes steps already; `settings` say how far it goes."""
        cold = cls.__new__(cls)
        cold._begin(settings, execute)
        return cold

    def generate(self, prompts: Sequence[Prompt] | str, **fields: object) -> list[Answer]:
        """Answers prompts, many at once.

        Args:
            prompts: text, chats (lists of role and content), or token ids; or one text.
            fields: inputs of docs/protocol.md, the same for all; what it has as JSON may be a list
                or a mapping.

        Returns:
            An answer for each prompt, in their order.

        Raises:
            InvalidRequestError: a field is unknown or out of range.
            ColdError: an answer could not be computed.
        """
        asked = [prompts] if isinstance(prompts, str) else prompts
        requests = [self.request(prompt, **fields) for prompt in asked]
        return [answer for _, answer in sorted(self.each(requests), key=itemgetter(0))]

    def stream(self, prompt: Prompt, **fields: object) -> Generator[Piece, None, None]:
        """Yields an answer piece by piece, as soon as its text is certain.

        Whoever stops listening ends it. Arguments and errors: as `generate`.
        """
        sink = _Kept()
        self._submit(self.request(prompt, stream=True, **fields), sink)
        try:
            while not sink.has_ended:
                self._engine.step()
                yield from sink.take()
        finally:
            sink.cancelled = True

    def request(self, prompt: Prompt, **fields: object) -> GenerationRequest:
        """A prompt and the inputs of docs/protocol.md as a request. Raises as `generate`."""
        given = fields | _prompt(prompt)
        for name in _JSON & given.keys():
            if not isinstance(given[name], str):
                given[name] = json.dumps(given[name])
        request = self._parser.parse(inputs_of(given))
        for name in request.adapter_names:
            if name not in self._adapters:
                known = ", ".join(self._adapters) or "none"
                raise UnknownAdapterError(
                    request.field_of(name), f"no adapter {name!r}; there are: {known}"
                )
        return request

    def each(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Answer]]:
        """Yields the place of a request and its answer, in the order in which they end.

        Raises:
            ColdError: an answer could not be computed.
        """
        running = {place: _Kept() for place in range(len(requests))}
        for place, sink in running.items():
            self._submit(requests[place], sink)
        while running:
            self._engine.step()
            for place in [place for place, sink in running.items() if sink.has_ended]:
                yield place, running.pop(place).whole()

    def _begin(
        self, settings: Settings, execute: Callable[[Step], StepResult] | None = None
    ) -> None:
        settings = replace(settings, max_queue=_MAX_QUEUE, max_wait_s=_MAX_WAIT_S)
        self.tokenizer = load_tokenizer(settings)
        self._adapters = settings.adapter_names
        self._parser = RequestParser(settings, self.tokenizer)
        steps = execute or load_fused(settings).execute
        self._engine = Engine.of(settings, steps, Telemetry(settings))

    def _submit(self, request: GenerationRequest, sink: _Kept) -> None:
        self._engine.submit(Running(request, sink, self.tokenizer))


@dataclass(slots=True)
class _Kept:
    """A sink that keeps what it is sent."""

    pieces: list[Piece] = field(default_factory=list)
    error: ColdError | None = None
    has_ended: bool = False
    cancelled: bool = False
    begun_s: float = field(default_factory=time.perf_counter)
    times_s: list[float] = field(default_factory=list)

    def send(self, piece: Piece) -> None:
        """See `Sink`."""
        self.pieces.append(piece)
        self.times_s.append(time.perf_counter() - self.begun_s)
        self.has_ended = piece.finish_reason is not None

    def fail(self, error: ColdError) -> None:
        """See `Sink`."""
        self.error, self.has_ended = error, True

    def is_cancelled(self) -> bool:
        """See `Sink`."""
        return self.cancelled

    def take(self) -> Iterator[Piece]:
        """What came since the last call. Raises the error that ended it."""
        if self.error:
            raise self.error
        pieces, self.pieces = self.pieces, []
        yield from pieces

    def whole(self) -> Answer:
        """All of it. Raises the error that ended it."""
        pieces = [*self.take()]
        return Answer(
            "".join(piece.text for piece in pieces),
            tuple(token for piece in pieces for token in piece.tokens),
            pieces[-1].finish_reason,
            self.times_s[0],
            self.times_s[-1],
            pieces[-1].cached_tokens,
        )


def _prompt(prompt: Prompt) -> dict[str, object]:
    """The input that a prompt is."""
    if isinstance(prompt, str):
        return {"text_input": prompt}
    if all(isinstance(part, Mapping) for part in prompt):
        return {"messages": json.dumps([*prompt])}
    return {"input_ids": [*prompt]}
