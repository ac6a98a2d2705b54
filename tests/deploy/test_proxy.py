"""The real proxy before a real server: TLS, tokens, what is hidden, streams and hang-ups."""

from __future__ import annotations

import dataclasses
import queue
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as tritonclient
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from cold_client import AccessDenied, Client, InvalidRequest, Request
from tests.conftest import Server
from tests.deploy.program import run, wait_for
from tests.deploy.proxy import (
    CONFIGURATION,
    TOKEN,
    Proxy,
    digest,
    environment,
    proxy_before,
    running_sequences,
)
from tests.groups import needs
from tests.server.test_lifecycle import LONG, answers_quickly, occupy

pytestmark = [
    needs("haproxy"),
    pytest.mark.server,
    pytest.mark.parametrize("server", ["fused"], indirect=True, scope="session"),
]

SHORT = Request(text_input="The sky is", max_tokens=6)
SCHEMES = ("grpcs", "https")
DENIED = {"grpcs": "401", "https": "a valid bearer token is needed"}
CALLS: dict[str, Callable[[Client], Any]] = {
    "generate": lambda client: client.generate(SHORT),
    "stream": lambda client: list(client.stream(SHORT)),
    "models": lambda client: client.models(),
    "health": lambda client: client.health(),
}


@pytest.fixture(scope="module")
def proxy(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    directory = tmp_path_factory.mktemp("proxy")
    with proxy_before(directory, a=(server.http, server.grpc)) as proxy:
        yield proxy


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_without_the_right_token_nothing_is_served(
    scheme: str, call: Callable[[Client], Any], proxy: Proxy
) -> None:
    with (
        Client(proxy.url(scheme), ca_file=proxy.ca_file) as without,
        proxy.client(scheme, token="another one") as wrong,
    ):
        for client in (without, wrong):
            with pytest.raises(AccessDenied, match=DENIED[scheme]):
                call(client)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_with_a_token_all_is_as_without_a_proxy(scheme: str, proxy: Proxy, server: Server) -> None:
    with Client(server.grpc) as client, proxy.client(scheme) as through:
        assert through.generate(SHORT).token_ids == client.generate(SHORT).token_ids
        assert through.models() == client.models()
        assert through.health() == client.health()
        with pytest.raises(InvalidRequest) as caught:
            through.generate(Request(text_input="Hello", alpha=7.0))
        assert caught.value.field == "alpha"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_pieces_arrive_before_the_answer_has_ended(
    scheme: str, proxy: Proxy, server: Server
) -> None:
    with proxy.client(scheme) as client, client.stream(LONG) as stream:
        assert next(stream).token_ids
        wait_for(
            lambda: running_sequences(server.metrics) == 1, "it ended before its first piece came"
        )
        assert next(stream).token_ids


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_hang_up_frees_the_slot(scheme: str, proxy: Proxy, server: Server) -> None:
    with occupy(server.grpc):
        with proxy.client(scheme) as client, client.stream(LONG) as stream:
            next(stream)
        answers_quickly(server.grpc)


def test_a_new_token_is_loaded_while_a_stream_runs(proxy: Proxy) -> None:
    def is_accepted() -> bool:
        with proxy.client("https", token="new") as client, suppress(AccessDenied):
            return client.health().ready
        return False

    assert not is_accepted()
    request = dataclasses.replace(LONG, max_tokens=100)
    with proxy.client("grpcs") as client, client.stream(request) as stream:
        next(stream)
        with proxy.tokens.open("a") as tokens:
            tokens.write(digest("new"))
        proxy.process.send_signal(signal.SIGUSR2)
        wait_for(is_accepted, "the new token is not accepted")
        *_, last = stream
    assert last.finish_reason == "length"


def test_a_token_does_not_go_over_plain_http(proxy: Proxy) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://{proxy.address}/v2/health/ready")


@pytest.mark.parametrize(
    "path",
    ["/v2/logging", "/v2/trace/setting", "/v2/systemsharedmemory/status", "/v2/models/stats"],
)
def test_management_over_http_is_hidden(path: str, proxy: Proxy, server: Server) -> None:
    assert httpx.get(server.http + path).is_success
    with proxy.http() as client:
        for hidden in (path, f"/{path}", f"/v2/models/cold/generate/../../../..{path}"):
            answer = client.get(hidden)
            assert (answer.status_code, answer.json()) == (
                403,
                {"error": "this is not served here"},
            )


def test_large_bodies_do_not_reach_the_server(proxy: Proxy) -> None:
    path = "/v2/models/cold/generate"
    with proxy.http() as client:
        assert client.post(path, content=b"[" * (1 << 20)).status_code == 500  # tritonserver's own
        assert client.post(path, content=b"[" * (1 << 21)).status_code == 413
        assert client.post(path, content=iter([b"[" * 10])).status_code == 411


@pytest.mark.parametrize("path", ["load", "unload"])
def test_models_cannot_be_loaded_over_http(path: str, proxy: Proxy) -> None:
    with proxy.http() as client:
        assert client.post(f"/v2/repository/models/cold/{path}").status_code == 403


@pytest.fixture
def stub(proxy: Proxy) -> Iterator[Any]:
    credentials = grpc.ssl_channel_credentials(proxy.ca_file.read_bytes())
    with grpc.secure_channel(proxy.address, credentials) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="cold")),
        ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="cold")),
        ("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest()),
        ("SystemSharedMemoryRegister", pb.SystemSharedMemoryRegisterRequest(name="x", key="/x")),
        ("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest()),
        ("TraceSetting", pb.TraceSettingRequest()),
        ("LogSettings", pb.LogSettingsRequest()),
        ("ModelStatistics", pb.ModelStatisticsRequest()),
    ],
)
def test_management_over_grpc_is_hidden(method: str, message: Any, stub: Any) -> None:
    metadata = (("authorization", f"Bearer {TOKEN}"),)
    with pytest.raises(grpc.RpcError) as caught:
        getattr(stub, method)(message, metadata=metadata, timeout=10)
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_the_header_that_tritonserver_dies_of_is_taken_away(stub: Any) -> None:
    """With it, errors would be statuses of gRPC instead of messages."""
    request = pb.ModelInferRequest(model_name="nothing")
    metadata = (("authorization", f"Bearer {TOKEN}"), ("triton_grpc_error", "true"))
    (reply,) = stub.ModelStreamInfer(iter([request]), metadata=metadata, timeout=10)
    assert "unknown model" in reply.error_message


@pytest.mark.parametrize("token", [TOKEN, "another one"])
def test_a_stream_that_the_client_keeps_open(token: str, proxy: Proxy) -> None:
    """As NVIDIA's client does: its requests may go on for as long as it likes."""
    answers: queue.Queue[Any] = queue.Queue()
    client = tritonclient.InferenceServerClient(
        proxy.address, ssl=True, root_certificates=str(proxy.ca_file)
    )
    headers = {"authorization": f"Bearer {token}"}
    client.start_stream(lambda result, error: answers.put(error or result), headers=headers)
    text = tritonclient.InferInput("text_input", [1, 1], "BYTES")
    text.set_data_from_numpy(np.array([[b"Hello"]], dtype=object))
    client.async_stream_infer("cold", [text])
    answer = answers.get(timeout=30)
    client.close()
    if token == TOKEN:
        assert answer.as_numpy("text_output").size == 1
    else:
        assert answer.status() == "StatusCode.UNAUTHENTICATED"


@pytest.mark.parametrize("missing", ["COLD_CERTIFICATE", "COLD_TOKENS"])
def test_without_certificate_or_tokens_it_does_not_start(
    missing: str, server: Server, tmp_path: Path
) -> None:
    settings = environment(tmp_path, {"a": (server.http, server.grpc)})
    run("haproxy", "-c", "-f", CONFIGURATION, environment=settings)
    with pytest.raises(AssertionError, match="found in configuration"):
        run("haproxy", "-c", "-f", CONFIGURATION, environment={**settings, missing: ""})
