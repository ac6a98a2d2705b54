"""Tokens through the real server against the slow reference, alone and in company."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from cold_backend.text.tokenizer import Tokenizer
from cold_client import AsyncClient, Client, Request
from tests.conftest import Server
from tests.prompts import Prompt
from tests.reference import Decoding, Reference, distribution

pytestmark = pytest.mark.server

TOKENS = 16
DECODINGS = (
    Decoding("greedy"),
    Decoding("cold", 0.1, 0.5),
    Decoding("cold", 0.3, 1.0),
    Decoding("cold", 0.05, 0.25),
)


def request_for(prompt: Prompt, decoding: Decoding) -> Request:
    request = Request(
        input_ids=None if prompt.messages else prompt.ids,
        messages=prompt.messages,
        decoding=decoding.name,  # type: ignore[arg-type]
        max_tokens=TOKENS,
    )
    if decoding.name == "cold":
        request = replace(request, alpha=decoding.alpha, beta=decoding.beta)
    if decoding.lora_scale != 1:
        request = replace(request, lora_scale=decoding.lora_scale)
    return request


async def together(url: str, requests: Iterable[Request]) -> list[list[int]]:
    """The tokens of each, at once."""
    async with AsyncClient(url) as client:
        results = await asyncio.gather(*(client.generate(r, timeout_s=300) for r in requests))
    return [list(result.token_ids) for result in results]


@pytest.mark.parametrize("decoding", DECODINGS, ids=str)
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_alone(
    protocol: str, decoding: Decoding, server: Server, prompts: list[Prompt], reference: Reference
) -> None:
    # A half of the prompts over gRPC and a quarter over HTTP; all of them in company below.
    step = {"grpc": 2, "http": len(DECODINGS)}[protocol]
    chosen = prompts[DECODINGS.index(decoding) % step :: step]
    with Client(getattr(server, protocol)) as client:
        for prompt in chosen:
            with client.stream(request_for(prompt, decoding)) as stream:
                tokens = [token for piece in stream for token in piece.token_ids]
            assert tokens == reference.decode(prompt.ids, decoding, TOKENS, tokens)


async def test_sixteen_at_once(server: Server, prompts: list[Prompt], reference: Reference) -> None:
    """Prompts of all lengths, decodings of all kinds, both protocols, one started after another."""
    jobs = [(prompt, decoding) for prompt in prompts for decoding in DECODINGS]
    gate = asyncio.Semaphore(16)

    async with AsyncClient(server.grpc) as over_grpc, AsyncClient(server.http) as over_http:
        clients = [over_grpc, over_http, over_http, over_grpc]

        async def run(order: int, prompt: Prompt, decoding: Decoding) -> tuple[int, ...]:
            number, which = divmod(order, len(DECODINGS))
            client = clients[(number + which) % len(clients)]
            await asyncio.sleep(0.05 * order)
            async with gate:
                result = await client.generate(request_for(prompt, decoding), timeout_s=300)
            return tuple(result.token_ids)

        answers = await asyncio.gather(*(run(i, *job) for i, job in enumerate(jobs)))

    for (prompt, decoding), tokens in zip(jobs, answers, strict=True):
        assert list(tokens) == reference.decode(prompt.ids, decoding, TOKENS, tokens)


async def test_strengths_beside_each_other(
    server: Server, prompts: list[Prompt], reference: Reference
) -> None:
    """As PEFT with `scaling` times the strength, each as if it were alone; 0 is the base."""
    strengths = (0.0, 0.5, 1.0, 1.75, 3.0, 8.0)
    decodings = [
        Decoding(name, lora_scale=strength) for name in ("greedy", "cold") for strength in strengths
    ]
    chosen = prompts[: len(strengths)]
    jobs = [*zip([*chosen, *chosen], decodings, strict=True)]
    answers = await together(server.grpc, [request_for(*job) for job in jobs])
    for (prompt, decoding), tokens in zip(jobs, answers, strict=True):
        assert tokens == reference.decode(prompt.ids, decoding, TOKENS, tokens), decoding
    assert answers[0] == answers[6] == reference.decode(jobs[0][0].ids, Decoding("base"), TOKENS)


def test_reported_logits_are_within_a_thousandth(
    server: Server, prompts: list[Prompt], reference: Reference
) -> None:
    with Client(server.grpc) as client:
        for prompt in prompts[::3]:
            result = client.generate(
                Request(input_ids=prompt.ids, max_tokens=1, return_contrast=True)
            )
            (contrast,) = result.contrast or ()
            (token,) = result.token_ids
            expert, base = reference.logits(prompt.ids)
            for reported, logits in (
                (contrast.expert_log_prob, expert),
                (contrast.base_log_prob, base),
            ):
                expected = float(logits[token] - logits.logsumexp(0))
                assert reported == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("decoding", [Decoding("base"), *DECODINGS[:2]], ids=str)
def test_a_continuation_has_the_log_probabilities_of_the_reference(
    decoding: Decoding,
    server: Server,
    prompts: list[Prompt],
    reference: Reference,
    tokenizer: Tokenizer,
) -> None:
    text = " 12 - 5 = 7, says the parrot."  # no decoding's own answer
    ids = tokenizer.encode_bare(text)
    with Client(server.grpc) as client:
        for prompt in prompts[::5]:
            request = replace(
                request_for(prompt, decoding),
                max_tokens=None,
                continuation=text,
                return_log_probs=True,
            )
            result = client.generate(request)
            assert (result.text, list(result.token_ids)) == (text, ids)
            assert result.finish_reason == "length"
            expert, base = reference.all_logits((*prompt.ids, *ids[:-1]))
            after = slice(len(prompt.ids) - 1, None)
            expected = distribution(expert[after], base[after], decoding)[range(len(ids)), ids]
            assert result.decoding_log_probs == pytest.approx(expected.tolist(), abs=2e-3)
            own = base if decoding.name == "base" else expert
            expected = own[after].log_softmax(1)[range(len(ids)), ids]
            assert result.log_probs == pytest.approx(expected.tolist(), abs=2e-3)


@pytest.mark.parametrize("change", [{"beta": 0.0}, {"alpha": 1.0}], ids=str)
async def test_no_contrast_is_plain_greedy(
    change: dict[str, Any], server: Server, prompts: list[Prompt], reference: Reference
) -> None:
    greedy = Decoding("greedy")
    asked = [replace(request_for(prompt, greedy), decoding="cold", **change) for prompt in prompts]
    answers = await together(server.grpc, asked)
    for prompt, tokens in zip(prompts, answers, strict=True):
        assert tokens == reference.decode(prompt.ids, greedy, TOKENS, tokens)


async def test_base_ignores_the_adapter(
    server: Server, prompts: list[Prompt], reference: Reference
) -> None:
    base = Decoding("base")
    answers = await together(server.grpc, [request_for(prompt, base) for prompt in prompts])
    for prompt, tokens in zip(prompts, answers, strict=True):
        assert tokens == reference.decode(prompt.ids, base, TOKENS, tokens)


async def test_seeded_samples_do_not_depend_on_company(
    server: Server, prompts: list[Prompt]
) -> None:
    requests = [
        replace(request_for(prompt, Decoding("cold")), temperature=1.0, seed=seed, top_k=top_k)
        for prompt in prompts[:4]
        for seed, top_k in ((7, None), (2**64 - 1, 40))
    ]
    alone = [answer for request in requests for answer in await together(server.grpc, [request])]
    assert await together(server.grpc, requests) == alone
    assert len(set(map(tuple, alone))) > len(alone) // 2
