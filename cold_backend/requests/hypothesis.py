"""What is being written: tokens, their text, and the contexts that the next one is chosen from."""

from __future__ import annotations

import math
from collections.abc import Collection
from copy import deepcopy
from dataclasses import dataclass, field

from cold_backend.requests.answer import FinishReason, Piece
from cold_backend.requests.context import Context
from cold_backend.requests.request import GenerationRequest
from cold_backend.requests.token import Token
from cold_backend.requests.token_counts import TokenCounts
from cold_backend.text.detokenizer import Detokenizer, StopWords
from cold_backend.text.tokenizer import Tokenizer


@dataclass(slots=True, eq=False)
class Hypothesis:
    """An answer that may go on. A request has one, a beam search several.

    Attributes:
        request: that it answers.
        tokens: of the prompt and the output.
        counts: how often each token stands in the output; None if no penalty asks.
        eos_ids: tokens that end it, unless the request ignores them.
        detokenizer: has seen the tokens.
        stop_words: has seen the text.
        text: not sent yet.
        unsent: tokens that were not sent yet.
        cached_tokens: of the prompt, those that no context had to compute.
        candidates: how many of its best next tokens are wanted; 0 unless it is a beam.
        contexts: that it is read in, while it runs.
    """

    request: GenerationRequest
    tokens: list[int]
    counts: TokenCounts | None
    eos_ids: Collection[int]
    detokenizer: Detokenizer
    stop_words: StopWords
    text: str
    unsent: list[Token] = field(default_factory=list)
    cached_tokens: int = 0
    candidates: int = 0
    contexts: tuple[Context, ...] = ()

    @classmethod
    def of(cls, request: GenerationRequest, tokenizer: Tokenizer) -> Hypothesis:
        """Without any output."""
        return cls(
            request,
            tokens=[*request.prompt],
            counts=TokenCounts(request.prompt) if request.sampling.penalises else None,
            eos_ids=tokenizer.eos_ids,
            detokenizer=tokenizer.detokenizer(request.prompt),
            stop_words=StopWords(request.stop_words),
            text=request.echo,
        )

    def fork(self) -> Hypothesis:
        """Another that has got so far and goes on by itself."""
        return Hypothesis(
            self.request,
            tokens=[*self.tokens],
            counts=deepcopy(self.counts),
            eos_ids=self.eos_ids,
            detokenizer=self.detokenizer.fork(),
            stop_words=self.stop_words.fork(),
            text=self.text,
            unsent=[*self.unsent],
            cached_tokens=self.cached_tokens,
            candidates=self.candidates,
            contexts=tuple(context.fork() for context in self.contexts),
        )

    def tokens_of(self, context: Context) -> list[int]:
        """The tokens of one of its contexts: that one's prompt, and the output."""
        if context.prompt is self.request.prompt:  # to compare them token by token would cost
            return self.tokens
        return [*context.prompt, *self.tokens[len(self.request.prompt) :]]

    def unfed(self, context: Context) -> int:
        """Tokens that one of its contexts has not been fed yet."""
        return len(context.prompt) + self.output_length - context.fed

    @property
    def pending(self) -> int:
        """Tokens that some context has not been fed yet: a prompt's rest, or the newest token."""
        return max(map(self.unfed, self.contexts), default=len(self.tokens))

    @property
    def output_length(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def forced(self) -> int | None:
        """The token that must come next; None if the models choose it."""
        continuation = self.request.continuation
        return continuation[self.output_length] if continuation else None

    @property
    def biases(self) -> list[tuple[int, float]]:
        """Tokens whose logits something is added to: minus infinity to what must not come next."""
        return [*self.request.logit_bias, *((token, -math.inf) for token in self._banned())]

    def _banned(self) -> list[int]:
        banned = [
            word[-1]
            for word in self.request.bad_words
            if len(word) - 1 <= self.output_length and self._ends_with(word[:-1])
        ]
        if self.output_length < self.request.min_tokens:
            banned += self.eos_ids
        return banned

    def accept(self, token: Token) -> FinishReason | None:
        """Adds the picked token; says whether and why it ends with it.

        Mutates: the tokens, and the text to be sent.
        """
        self.tokens.append(token.id)
        if self.counts:
            self.counts.add(token.id)
        self.unsent.append(token)
        if token.id in self.eos_ids and not self.request.ignore_eos:
            self.text += self.stop_words.flush()
            return FinishReason.STOP
        if self._add_text(self.detokenizer.push(token.id)):
            return FinishReason.STOP
        if self.output_length >= self.request.max_tokens:
            self.text += self.stop_words.flush()
            return FinishReason.LENGTH
        return None

    def take(self, reason: FinishReason | None) -> Piece:
        """What was not sent yet. Mutates: nothing is left."""
        piece = Piece(self.text, tuple(self.unsent), reason, self.cached_tokens)
        self.text, self.unsent = "", []
        return piece

    def _add_text(self, piece: str) -> bool:
        """Adds text to be sent; returns whether a stop word ends it."""
        if self.output_length < self.request.min_tokens:
            self.text += piece
            return False
        safe, stopped = self.stop_words.push(piece)
        self.text += safe
        return stopped

    def _ends_with(self, ids: tuple[int, ...]) -> bool:
        return not ids or tuple(self.tokens[-len(ids) :]) == ids
