"""The dashboard's queries and the rules, asked of a real Prometheus that scrapes a real server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from cold_client import Client, InvalidRequest, Request
from deploy.grafana.dashboard import panels
from deploy.prometheus.local import configure
from tests.conftest import Server, free_ports
from tests.deploy.program import running, wait_for
from tests.groups import needs

pytestmark = [
    needs("prometheus"),
    pytest.mark.server,
    pytest.mark.parametrize("server", ["fused", "ensemble"], indirect=True),
]

QUERIES = {query.promql(rate_s=30): panel.title for panel in panels() for query in panel.queries}
# With its selector: neither recorded series, whose names hold colons, nor the model cold_decoder.
OWN = re.compile(r"\bcold_[a-z_]+(?=\{)")
TRITONSERVER = re.compile(r"\bnv_[a-z_]+\b")
RECORDED = re.compile(r"\bjob:[a-z_]+:[a-z0-9_]+")
# Of histograms, whose series are named otherwise.
SUFFIX = re.compile(r"_(bucket|count|sum)$")


class Prometheus:
    """Asks a Prometheus over its HTTP interface."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/api/v1"

    def ask(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(self._url + path, params=parameters, timeout=10).json()
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    def query(self, expression: str) -> list[Any]:
        found: list[Any] = self.ask("/query", query=expression)["result"]
        return found

    def names(self) -> set[str]:
        return set(self.ask("/label/__name__/values"))

    def scrapes(self) -> int:
        """How many there have been of a server that answers."""
        found = self.query('sum_over_time(up{job="cold"}[1h])')
        return int(found[0]["value"][1]) if found else 0

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.ask("/rules")["groups"] for rule in group["rules"]]


def use(server: Server) -> None:
    """Requests of every kind, so that every metric has counted."""
    prompt = "There are number0 apples and number1 pears ."
    with Client(server.grpc) as client:
        for request in (
            Request(text_input=prompt, max_tokens=12),
            Request(text_input=prompt, max_tokens=12, alpha=0.001, beta=5.0),
            Request(text_input=prompt, max_tokens=4, decoding="greedy"),
            Request(text_input=prompt, max_tokens=4, decoding="base"),
        ):
            client.generate(request)
        with suppress(InvalidRequest):
            client.generate(Request(text_input=prompt, alpha=7.0))


@pytest.fixture(scope="module")
def prometheus(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    directory = tmp_path_factory.mktemp("prometheus")
    target = server.metrics.removeprefix("http://").removesuffix("/metrics")
    configuration = configure(directory / "etc", target=target, interval_s=1)
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    arguments = (
        f"--config.file={configuration}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )

    def ready() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{url}/-/ready").is_success
        return False

    with running("prometheus", *arguments, log=directory / "log", ready=ready):
        prometheus = Prometheus(url)
        wait_for(lambda: prometheus.scrapes() > 0, "the server is not scraped")
        use(server)
        enough = prometheus.scrapes() + 3
        wait_for(lambda: prometheus.scrapes() >= enough, "the server is not scraped")
        yield prometheus


@pytest.mark.parametrize("query", QUERIES, ids=QUERIES.values())
def test_every_query_of_the_dashboard_finds_something(
    query: str, prometheus: Prometheus, request: pytest.FixtureRequest
) -> None:
    found = prometheus.query(query)
    if "nv_gpu_" in query:  # there is none on a machine without a GPU
        return
    if 'model=~"base_lm|' in query and request.node.callspec.params["server"] == "fused":
        assert not found
    else:
        assert found


def test_every_rule_can_be_evaluated(prometheus: Prometheus) -> None:
    wait_for(
        lambda: all(rule["health"] != "unknown" for rule in prometheus.rules()),
        "a rule is not evaluated",
    )
    rules = prometheus.rules()
    assert {rule["type"] for rule in rules} == {"recording", "alerting"}
    for rule in rules:
        assert rule["health"] == "ok", rule
        prometheus.query(rule["query"])


def test_rules_name_what_the_server_measures(prometheus: Prometheus) -> None:
    expressions = " ".join(rule["query"] for rule in prometheus.rules())
    names = prometheus.names()
    assert set(OWN.findall(expressions)) <= names
    assert set(RECORDED.findall(expressions)) <= {rule["name"] for rule in prometheus.rules()}


def test_the_dashboard_shows_all_that_the_server_measures(prometheus: Prometheus) -> None:
    expressions = " ".join(QUERIES)
    names = prometheus.names()
    shown = set(OWN.findall(expressions))
    assert shown <= names
    assert {SUFFIX.sub("", name) for name in shown} == {
        SUFFIX.sub("", name) for name in names if name.startswith("cold_")
    }
    gpu = {name for name in TRITONSERVER.findall(expressions) if name.startswith("nv_gpu_")}
    assert set(TRITONSERVER.findall(expressions)) - gpu <= names
