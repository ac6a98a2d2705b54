"""What a collector of OpenTelemetry traces gets of a request, over both executions."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cold_backend.config import Settings
from cold_backend.server.process import Endpoints, ServerProcess
from cold_client import Client, InvalidRequest, Request
from tests.conftest import await_ready, free_ports
from tests.server.collector import Collector, Span, collecting

pytestmark = pytest.mark.server

WAIT_S = 20
TOKENS = 3
HELLO = Request(text_input="Once upon a time", ignore_eos=True, max_tokens=TOKENS)
# Every span of a request, with its parent and how often it comes.
REQUEST = {
    ("InferRequest", "client"): 1,
    ("cold", "InferRequest"): 1,
    ("compute", "cold"): 1,
    ("generation", "cold"): 1,
    ("queue", "generation"): 1,
    ("prefill", "generation"): 1,
    ("decode", "generation"): 1,
    ("cold_step", "generation"): TOKENS,
}
ENDS = {"InferRequest", "generation"}  # what is sent last
TRACE_EVERY = {"fused": 0, "ensemble": 1}
GRPC_ATTEMPTS = 5
MODELS: dict[str, dict[tuple[str, str], int]] = {
    "fused": {},
    "ensemble": {
        (model, "cold_step"): TOKENS for model in ("base_lm", "adapter_lm", "cold_decoder")
    },
}


@dataclass(frozen=True)
class Traced:
    """A server and where its spans go."""

    execution: str
    http: str
    grpc: str
    collector: Collector


@dataclass(frozen=True)
class Context:
    """A client's own trace, in which its request becomes a child of the span `client`."""

    trace: str = field(default_factory=lambda: secrets.token_hex(16))
    span: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def headers(self) -> dict[str, str]:
        return {"traceparent": f"00-{self.trace}-{self.span}-01"}


@pytest.fixture(scope="module", params=["fused", "ensemble"])
def traced(request: pytest.FixtureRequest, base_model: Path, adapter: Path) -> Iterator[Traced]:
    http, grpc, metrics = free_ports(3)
    with pytest.MonkeyPatch.context() as patch, collecting() as collector:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        settings = Settings(
            base_model=str(base_model),
            adapters={"equations": str(adapter)},
            execution=request.param,
            max_context=640,
            kv_cache_bytes=200_000_000,
            trace_url=collector.url,
            trace_every=TRACE_EVERY[request.param],
        )
        endpoints = Endpoints(http_port=http, grpc_port=grpc, metrics_port=metrics)
        with ServerProcess(settings, endpoints) as process:
            await_ready(process)
            yield Traced(
                request.param, f"http://127.0.0.1:{http}", f"grpc://127.0.0.1:{grpc}", collector
            )


def await_spans(server: Traced, context: Context, names: Iterable[str] = ENDS) -> list[Span]:
    """The spans of a trace when they all are there, or what came of them within WAIT_S."""
    give_up = time.monotonic() + WAIT_S
    missing = Counter(names)
    while missing and time.monotonic() < give_up:
        time.sleep(0.1)
        missing = Counter(names) - Counter(s.name for s in server.collector.trace(context.trace))
    return server.collector.trace(context.trace)


def tree(spans: list[Span], client: str) -> Counter[tuple[str, str]]:
    """How often each span comes, by its name and its parent's."""
    names = {span.id: span.name for span in spans} | {client: "client"}
    return Counter((span.name, names.get(span.parent, "nowhere")) for span in spans)


def named(spans: list[Span], name: str) -> Span:
    (found,) = (span for span in spans if span.name == name)
    return found


def over_grpc(server: Traced, headers: dict[str, str], request: Request = HELLO) -> None:
    with Client(server.grpc, headers=headers) as client, client.stream(request) as stream:
        list(stream)


def over_http(server: Traced, headers: dict[str, str], request: Request = HELLO) -> None:
    with Client(server.http, headers=headers) as client:
        client.generate(request)


@pytest.mark.parametrize("call", [over_grpc, over_http])
def test_a_request_is_traced_from_its_client_to_the_models(
    call: Callable[[Traced, dict[str, str]], None], traced: Traced
) -> None:
    expected = Counter(REQUEST | MODELS[traced.execution])
    names = [name for name, _ in expected.elements()]
    for _ in range(GRPC_ATTEMPTS):
        context = Context()
        call(traced, context.headers)
        # tritonserver reads gRPC metadata up to the next zero byte, and so it can miss a
        # `traceparent`, rarely. It does not get one wrong, nor a header of HTTP.
        if (spans := await_spans(traced, context, names)) or call is over_http:
            break
    assert tree(spans, context.span) == expected
    assert {span.service for span in spans} == {"cold-server"}
    assert not any(span.failed for span in spans)
    generation = named(spans, "generation")
    assert generation.attributes["cold.adapter"] == "equations"
    assert generation.attributes["cold.output_tokens"] == TOKENS
    queue, prefill, decode = (named(spans, name) for name in ("queue", "prefill", "decode"))
    assert generation.start_s == queue.start_s < queue.end_s == prefill.start_s
    assert prefill.end_s == decode.start_s < decode.end_s == generation.end_s


def test_a_step_is_linked_to_all_requests_in_it(traced: Traced) -> None:
    contexts = [Context() for _ in range(3)]
    long = replace(HELLO, max_tokens=40)
    with ThreadPoolExecutor() as pool:
        for context in contexts:
            pool.submit(over_http, traced, context.headers, long)
    spans = [span for context in contexts for span in await_spans(traced, context)]
    generations = {span.id for span in spans if span.name == "generation"}
    shared = [span for span in spans if span.attributes.get("cold.choices") == len(contexts)]
    assert shared
    assert all({span.parent, *span.links} == generations for span in shared)
    assert len({span.parent for span in shared}) == 1


def test_a_refused_request_says_so(traced: Traced) -> None:
    context = Context()
    with pytest.raises(InvalidRequest):
        over_http(traced, context.headers, Request(text_input="Hello", alpha=7.0))
    spans = await_spans(traced, context)
    assert [span.name for span in spans if span.failed] == ["generation"]


def test_which_requests_are_traced_that_bring_no_trace(traced: Traced) -> None:
    before = traced.collector.traces()
    over_http(traced, {})
    context = Context()
    over_http(traced, context.headers)
    await_spans(traced, context)
    new = traced.collector.traces() - before - {context.trace}
    assert len(new) == TRACE_EVERY[traced.execution]


def test_requests_are_answered_while_the_collector_fails(traced: Traced) -> None:
    collector = traced.collector
    collector.fails = True
    give_up = time.monotonic() + WAIT_S
    while not collector.failures and time.monotonic() < give_up:
        over_http(traced, Context().headers)
    assert collector.failures
    over_http(traced, Context().headers)
    collector.fails = False
    context = Context()
    over_http(traced, context.headers)
    assert {span.name for span in await_spans(traced, context)} >= ENDS
