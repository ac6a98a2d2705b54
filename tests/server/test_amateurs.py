"""Contrast with whatever a request chooses, through the real server, against the slow reference."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from cold_client import AsyncClient, Request
from tests.conftest import Server
from tests.prompts import Prompt
from tests.reference import Decoding, Reference

pytestmark = pytest.mark.server

TOKENS = 16
MIXED: dict[str, Any] = {"lora_names": ["flipped", "equations"], "lora_scales": [1.5, 0.5]}
BY_DIVERGENCE: dict[str, Any] = {"beta_rule": "divergence", "beta": 3.0}


Kind = tuple[dict[str, Any], Decoding]  # fields of a request, and what the reference does for them


def kinds(ids: tuple[int, ...], other: tuple[int, ...]) -> Iterable[Kind]:
    """Of requests with a prompt, with another one at hand."""
    own, last = {"amateur_input_ids": other}, {"amateur_last_tokens": 5}
    weak = {"amateur_lora_name": "equations", "amateur_lora_scale": 0.25, "lora_scale": 1.5}
    against = {"amateur_lora_name": "flipped", "amateur_lora_scale": 0.75}
    yield own, Decoding("cold", amateur_ids=other, amateur_scale=1.0)
    yield last, Decoding("cold", amateur_ids=ids[-5:], amateur_scale=1.0)
    yield {"amateur_last_tokens": 500}, Decoding("cold", amateur_scale=1.0)
    yield last | {"amateur_lora_name": ""}, Decoding("cold", amateur_ids=ids[-5:])
    yield weak, Decoding("cold", lora_scale=1.5, amateur_scale=0.25)
    yield own | {"lora_scale": 0.0}, Decoding("cold", lora_scale=0.0, amateur_ids=other)
    yield against, Decoding("cold", amateur_second_scale=0.75)
    yield (
        against | {"lora_scale": 0.0},
        Decoding("cold", lora_scale=0.0, amateur_second_scale=0.75),
    )
    yield (
        own | {"amateur_lora_name": "flipped"},
        Decoding("cold", amateur_ids=other, amateur_second_scale=1.0),
    )
    yield BY_DIVERGENCE, Decoding("cold", beta=3.0, divergence=True)
    yield (
        BY_DIVERGENCE | last,
        Decoding("cold", beta=3.0, divergence=True, amateur_ids=ids[-5:], amateur_scale=1.0),
    )
    yield MIXED, Decoding("cold", lora_scale=0.5, second_scale=1.5)
    yield MIXED | {"decoding": "greedy"}, Decoding("greedy", lora_scale=0.5, second_scale=1.5)
    yield (
        MIXED | own,
        Decoding(
            "cold",
            lora_scale=0.5,
            second_scale=1.5,
            amateur_ids=other,
            amateur_scale=0.5,
            amateur_second_scale=1.5,
        ),
    )


def asked(prompt: Prompt, **fields: Any) -> Request:
    named = {} if "lora_names" in fields else {"lora_name": "equations"}
    given: dict[str, Any] = {"beta": 0.5} | named | fields
    return Request(input_ids=prompt.ids, max_tokens=TOKENS, **given)


async def together(url: str, requests: Iterable[Request]) -> list[list[int]]:
    """The tokens of each, at once."""
    async with AsyncClient(url) as client:
        results = await asyncio.gather(*(client.generate(r, timeout_s=300) for r in requests))
    return [list(result.token_ids) for result in results]


async def test_all_kinds_beside_each_other(
    server: Server, prompts: list[Prompt], reference: Reference
) -> None:
    """Another prompt, the end of the same one, another strength or adapter, none, several; by a
    fixed beta and by the divergence; each as if alone."""
    other = prompts[-1].ids
    of_chat, of_text = ([(p, *kind) for kind in kinds(p.ids, other)] for p in prompts[::17][:2])
    jobs = of_chat[::2] + of_text[1::2]
    requests = [asked(prompt, **fields) for prompt, fields, _ in jobs]
    answers = await together(server.grpc, requests)
    half = len(jobs) // 2
    assert await together(server.http, requests[half:]) == answers[half:]
    for (prompt, fields, decoding), tokens in zip(jobs, answers, strict=True):
        assert tokens == reference.decode(prompt.ids, decoding, TOKENS, tokens), fields


async def test_several_adapters_of_which_one_is_off(server: Server, prompts: list[Prompt]) -> None:
    """An adapter at strength 0 changes nothing, and one alone is that adapter."""
    for prompt in prompts[:2]:
        alone = asked(prompt, decoding="greedy")
        named = asked(prompt, decoding="greedy", lora_names=["equations"])
        off = asked(
            prompt, decoding="greedy", lora_names=["flipped", "equations"], lora_scales=[0, 1]
        )
        first, second, third = await together(server.grpc, [alone, named, off])
        assert first == second == third


async def test_seeds_and_beams(server: Server, prompts: list[Prompt]) -> None:
    """Alone or in company, over both protocols, they answer the same."""
    prompt, other = prompts[3], prompts[-1].ids
    requests = [
        asked(prompt, **fields, **how)
        for fields, _ in kinds(prompt.ids, other)
        if "decoding" not in fields
        for how in ({"temperature": 0.8, "seed": 5}, {"decoding": "cold_beam", "beam_width": 3})
    ]
    at_once = await together(server.grpc, requests)
    for number in range(0, len(requests), 5):
        assert await together(server.http, [requests[number]]) == [at_once[number]]
