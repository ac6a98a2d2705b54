"""Beam search through the real server against transformers' own, alone and in company."""

from __future__ import annotations

import asyncio

import pytest

from cold_backend.text.tokenizer import Tokenizer
from cold_client import AsyncClient, Client, Request
from tests.conftest import Server
from tests.prompts import Prompt
from tests.reference import Beams, Decoding, Reference

pytestmark = pytest.mark.server

TOKENS = 10
OTHERS_TOKENS = 16
KINDS = (
    Beams(4, 1.0, "false"),
    Beams(2, 0.0, "true"),
    Beams(3, 2.0, "never"),
    Beams(2, -1.0, "false", min_tokens=7),
)
COLD_KINDS = (
    Beams(2, 0.0, "true", cold=Decoding("cold", 0.02, 1.5)),
    Beams(3, 1.0, "false", cold=Decoding("cold", 0.1, 0.5)),
)


def request_for(prompt: Prompt, beams: Beams) -> Request:
    return Request(
        input_ids=prompt.ids,
        decoding="cold_beam" if beams.cold else "beam",
        alpha=beams.cold.alpha if beams.cold else None,
        beta=beams.cold.beta if beams.cold else None,
        beam_width=beams.width,
        length_penalty=beams.length_penalty,
        early_stopping=beams.early_stopping,  # type: ignore[arg-type]
        min_tokens=beams.min_tokens,
        max_tokens=TOKENS,
    )


def kind_of(number: int, prompt: Prompt) -> Beams:
    """transformers computes the prompt once for every beam, so long ones have few."""
    return KINDS[number % len(KINDS)] if len(prompt.ids) < 130 else KINDS[1 + 2 * (number % 2)]


def test_every_prompt(server: Server, prompts: list[Prompt], reference: Reference) -> None:
    with Client(server.grpc) as client:
        for number, prompt in enumerate(prompts):
            beams = kind_of(number, prompt)
            found = client.generate(request_for(prompt, beams), timeout_s=300)
            assert list(found.token_ids) == reference.search(prompt.ids, beams, TOKENS)


def test_by_the_contrast(server: Server, prompts: list[Prompt], reference: Reference) -> None:
    short = [prompt for prompt in prompts if len(prompt.ids) < 20]
    jobs = [(p, COLD_KINDS[n % len(COLD_KINDS)]) for n, p in enumerate([*short, prompts[0]])]
    with Client(server.grpc) as client:
        for prompt, beams in jobs:
            found = client.generate(request_for(prompt, beams), timeout_s=300)
            assert list(found.token_ids) == reference.search(prompt.ids, beams, TOKENS)


async def test_beside_others(server: Server, prompts: list[Prompt], reference: Reference) -> None:
    """More beams than there are slots, among requests of other kinds, which do not notice."""
    short = [(n, prompt) for n, prompt in enumerate(prompts) if len(prompt.ids) < 130]
    beams = [(prompt, kind_of(n, prompt)) for n, prompt in short[::2]]
    others = [(p, Decoding(name)) for _, p in short[::2] for name in ("greedy", "cold")]
    sampled = Request(input_ids=prompts[0].ids, temperature=1.0, seed=7, max_tokens=OTHERS_TOKENS)

    async with AsyncClient(server.grpc) as client:

        async def tokens(request: Request) -> list[int]:
            return list((await client.generate(request, timeout_s=300)).token_ids)

        alone = await tokens(sampled)
        requests = [request_for(*job) for job in beams]
        requests += [
            Request(input_ids=p.ids, decoding=d.name, max_tokens=OTHERS_TOKENS)  # type: ignore[arg-type]
            for p, d in others
        ]
        *answers, again = await asyncio.gather(*map(tokens, requests), tokens(sampled))
    expected = [reference.search(p.ids, b, TOKENS) for p, b in beams]
    expected += [
        reference.decode(p.ids, d, OTHERS_TOKENS, answer)
        for (p, d), answer in zip(others, answers[len(beams) :], strict=True)
    ]
    assert answers == expected
    assert again == alone


def test_the_answer_comes_whole(server: Server, prompts: list[Prompt]) -> None:
    request = Request(
        input_ids=prompts[0].ids,
        decoding="beam",
        max_tokens=TOKENS,
        early_stopping=False,
        return_log_probs=True,
        return_contrast=True,
    )
    for url in (server.grpc, server.http):
        with Client(url) as client:
            whole = client.generate(request)
            with client.stream(request) as stream:
                (piece,) = stream
    assert (piece.text, piece.token_ids) == (whole.text, whole.token_ids)
    assert len(piece.log_probs) == len(piece.contrast) == len(piece.token_ids)
    for log_prob, contrast in zip(piece.log_probs, piece.contrast, strict=True):
        assert log_prob == contrast.expert_log_prob <= 0
        assert contrast.changed or contrast.valid_count >= 1


def test_words(server: Server, tokenizer: Tokenizer) -> None:
    """A bad word does not come, and an answer ends before a stop word."""
    plain = Request(text_input="1, 2, 3, 4,", decoding="beam", max_tokens=24, ignore_eos=True)
    with Client(server.grpc) as client:
        text = client.generate(plain).text
        word = text.split()[1]
        without = client.generate(
            Request(text_input="1, 2, 3, 4,", decoding="beam", max_tokens=24, bad_words=[word])
        )
        stopped = client.generate(
            Request(
                text_input="1, 2, 3, 4,",
                decoding="beam",
                max_tokens=24,
                stop_words=[word],
                early_stopping=True,
            )
        )
    assert word not in without.text.split()
    assert stopped.finish_reason == "stop"
    assert word not in stopped.text
    assert stopped.text == tokenizer.decode(stopped.token_ids).partition(word)[0]
