"""Runs decodings over a running server, several requests at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from typing import Any

from cold_client import Client, ColdClientError, Piece, Request
from cold_eval.answers import Answer, result_of, seed_of, voted
from cold_eval.choices import ChoiceScores, choice_text, chosen
from cold_eval.decodings import Decoding
from cold_eval.errors import EvaluationError
from cold_eval.items import Item, Task
from cold_eval.results import Result

_KNOWN = {field.name for field in dataclasses.fields(Request)}


class Served:
    """A server's adapter.

    Args:
        url: of the server.
        adapter: its name; None for the server's default.
        concurrency: requests at once.
        seed: of samples.

    Raises:
        EvaluationError: the server cannot be reached.
    """

    def __init__(self, url: str, adapter: str | None, concurrency: int, seed: int) -> None:
        if concurrency < 1:
            raise EvaluationError(f"concurrency: must be at least 1, got {concurrency}")
        self._url = url
        self._adapter = adapter
        self._concurrency = concurrency
        self._seed = seed
        try:
            with Client(url) as client:
                ready = client.health().model_ready
        except ColdClientError as error:
            raise EvaluationError(f"url: {error}") from error
        if not ready:
            raise EvaluationError(f"url: {url} is not ready")

    def run(
        self, task: Task, decodings: Sequence[Decoding], wanted: Mapping[str, Sequence[str]]
    ) -> Iterator[Result]:
        """Yields the results that are wanted, in the order in which they are ready.

        Raises:
            EvaluationError: the server fails or refuses an item, or cannot do what is wanted.
        """
        for decoding in decodings:
            missing = decoding.fields(task.items[0]).keys() - _KNOWN
            if missing:
                raise EvaluationError(f"decoding: {decoding.name} is not offered by this client")
        jobs = (
            (item, decoding)
            for decoding in decodings
            for item in task.items
            if decoding.name in wanted.get(item.id, ())
        )
        with Client(self._url) as client, ThreadPoolExecutor(self._concurrency) as pool:

            def submit(count: int) -> set[Future[Result]]:
                some = islice(jobs, count)
                return {pool.submit(self._answer, client, task, *job) for job in some}

            running = submit(self._concurrency)
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= submit(len(done))
                yield from (future.result() for future in done)

    def _answer(self, client: Client, task: Task, item: Item, decoding: Decoding) -> Result:
        if task.is_choice:
            return chosen(task, item, decoding, self._scores(client, item, decoding))
        if decoding.samples > 1:
            texts = [self._pieces(client, task, item, decoding, n) for n in range(decoding.samples)]
            return voted(task, item, decoding, [_whole(pieces) for pieces in texts])
        pieces = self._pieces(client, task, item, decoding, 0)
        contrast = [token for piece in pieces for token in piece.contrast]
        return result_of(
            task,
            item,
            _whole(pieces),
            decodings={decoding.name: sum(t.valid_count > 1 for t in contrast) if contrast else -1},
            pieces=_texts(pieces),
            expert=[round(token.expert_log_prob, 3) for token in contrast],
            base=[round(token.base_log_prob, 3) for token in contrast],
            changed=[at for at, token in enumerate(contrast) if token.changed],
        )

    def _pieces(
        self, client: Client, task: Task, item: Item, decoding: Decoding, sample: int
    ) -> list[Piece]:
        request = self._request(
            item,
            decoding,
            max_tokens=task.max_tokens,
            stop_words=task.stop or None,
            seed=seed_of(self._seed, item.id, sample),
            return_contrast=decoding.in_grid,
        )
        with _errors_of(item), client.stream(request) as pieces:
            return [*pieces]

    def _scores(self, client: Client, item: Item, decoding: Decoding) -> ChoiceScores:
        log_probs = []
        for choice in item.choices:
            text = choice_text(item, choice)
            request = self._request(item, decoding, continuation=text, return_log_probs=True)
            with _errors_of(item):
                log_probs.append(client.generate(request).decoding_log_probs)
        return ChoiceScores(tuple(map(sum, log_probs)), tuple(map(len, log_probs)))

    def _request(self, item: Item, decoding: Decoding, **fields: Any) -> Request:
        prompt = "text_input" if isinstance(item.prompt, str) else "messages"
        fields |= {prompt: item.prompt, "lora_name": self._adapter}
        return Request(**decoding.fields(item), **fields)


@contextmanager
def _errors_of(item: Item) -> Iterator[None]:
    try:
        yield
    except ColdClientError as error:
        raise EvaluationError(f"item {item.id!r}: {error}") from error


def _whole(pieces: Sequence[Piece]) -> Answer:
    return Answer("".join(piece.text for piece in pieces), pieces[-1].finish_reason or "")


def _texts(pieces: Sequence[Piece]) -> list[str]:
    """The text of each token; that of several which came at once is with the last of them."""
    texts: list[str] = []
    for piece in pieces:
        texts += [""] * (len(piece.token_ids) - 1) + [piece.text] * bool(piece.token_ids)
    return texts
