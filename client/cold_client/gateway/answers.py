"""Answers as OpenAI's API has them, whole and in chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .._exceptions import RequestCancelled
from .._types import Piece, Result

Json = dict[str, Any]


class Answer:
    """The answer to one body: its id, its time, and how it is written.

    Tokens are named `token_id:N`, as vLLM does if told to: the server sends text and ids, and the
    text of a token alone is not always text.

    Args:
        model: id of the model that answers.
        include_usage: whether the chunks have a field for the number of tokens.
    """

    prefix: str
    whole_object: str
    chunk_object: str

    def __init__(self, model: str, *, include_usage: bool = False) -> None:
        self._id = f"{self.prefix}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._include_usage = include_usage

    def whole(self, results: Sequence[Result]) -> Json:
        """The answer to a body that does not stream. Raises RequestCancelled."""
        choices = [
            self._choice(index, self._content(result.text), result, _finish_reason(result))
            for index, result in enumerate(results)
        ]
        return self._envelope(self.whole_object, choices) | {"usage": usage(results)}

    def opening(self) -> list[Json]:
        """The chunks that come before the first piece."""
        return []

    def chunk(self, piece: Piece) -> Json:
        """The chunk for a piece."""
        return self._chunk([self._choice(0, self._delta(piece.text), piece, None)])

    def closing(self, result: Result) -> list[Json]:
        """The chunks that come after the last piece. Raises RequestCancelled."""
        last = self._choice(0, self._delta(None), None, _finish_reason(result))
        chunks = [self._chunk([last])]
        if self._include_usage:
            chunks.append(self._chunk([]) | {"usage": usage([result])})
        return chunks

    def _content(self, text: str) -> Json:
        """The part of a whole choice that holds its text."""
        raise NotImplementedError

    def _delta(self, text: str | None) -> Json:
        """The part of a chunk's choice that holds its text; None is the end."""
        raise NotImplementedError

    def _log_probs(self, part: Piece | Result) -> Json:
        """The log-probabilities of a part's tokens."""
        raise NotImplementedError

    def _choice(
        self, index: int, content: Json, part: Piece | Result | None, finish_reason: str | None
    ) -> Json:
        choice = {"index": index, **content, "logprobs": None, "finish_reason": finish_reason}
        if part and part.log_probs:
            choice["logprobs"] = self._log_probs(part)
        if part and part.contrast:
            choice["contrast"] = [
                {"token_id": token, **asdict(contrast)}
                for token, contrast in zip(part.token_ids, part.contrast, strict=True)
            ]
        return choice

    def _chunk(self, choices: list[Json]) -> Json:
        chunk = self._envelope(self.chunk_object, choices)
        return chunk | {"usage": None} if self._include_usage else chunk

    def _envelope(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }


class ChatAnswer(Answer):
    """The answer of POST /v1/chat/completions."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def opening(self) -> list[Json]:
        """The chunk that says whose message it is."""
        content = {"delta": {"role": "assistant", "content": ""}}
        return [self._chunk([self._choice(0, content, None, None)])]

    def _content(self, text: str) -> Json:
        return {"message": {"role": "assistant", "content": text}}

    def _delta(self, text: str | None) -> Json:
        return {"delta": {} if text is None else {"content": text}}

    def _log_probs(self, part: Piece | Result) -> Json:
        beside = part.alternatives or ((),) * len(part.token_ids)
        tokens = zip(part.token_ids, part.log_probs, beside, strict=True)
        return {
            "content": [
                _named(token, value)
                | {"top_logprobs": [_named(one.token_id, one.log_prob) for one in best]}
                for token, value, best in tokens
            ],
            "refusal": None,
        }


class CompletionAnswer(Answer):
    """The answer of POST /v1/completions."""

    prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def _content(self, text: str) -> Json:
        return {"text": text}

    def _delta(self, text: str | None) -> Json:
        return {"text": text or ""}

    def _log_probs(self, part: Piece | Result) -> Json:
        return {
            "tokens": [_name(token) for token in part.token_ids],
            "token_logprobs": list(part.log_probs),
            "top_logprobs": [
                # As OpenAI, the chosen token is always among them.
                {_name(one.token_id): one.log_prob for one in best} | {_name(token): value}
                for token, value, best in zip(
                    part.token_ids, part.log_probs, part.alternatives, strict=True
                )
            ]
            if part.alternatives
            else None,
            "text_offset": None,
        }


def usage(results: Sequence[Result]) -> Json:
    """Tokens of the prompts and of the outputs, an end-of-sequence token included."""
    prompt = sum(result.num_input_tokens or 0 for result in results)
    output = sum(result.num_output_tokens for result in results)
    cached = sum(result.num_cached_tokens or 0 for result in results)
    return {
        "prompt_tokens": prompt,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens": output,
        "total_tokens": prompt + output,
    }


def _finish_reason(result: Result) -> str:
    if result.finish_reason in ("stop", "length"):
        return result.finish_reason
    raise RequestCancelled("the request was cancelled before it ended")


def _named(token: int, log_prob: float) -> Json:
    return {"token": _name(token), "logprob": log_prob, "bytes": None}


def _name(token: int) -> str:
    return f"token_id:{token}"
