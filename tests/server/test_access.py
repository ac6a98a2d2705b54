"""tritonserver's own TLS and header tokens, as docs/deployment.md shows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from cold_client import AccessDenied, Client, Request, ServerUnavailable
from tests.server.test_supervision import Running, cold_server

pytestmark = pytest.mark.server

APIS = "inference,metadata,model-config,model-repository,shared-memory,statistics,trace,logging"
SHORT = Request(text_input="The sky is", max_tokens=3)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a certificate, its key and its authority."""
    directory = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(directory / "key.pem"))
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(str(directory / "certificate.pem"), append=True)
    return directory


@pytest.fixture(scope="module")
def server(base_model: Path, adapter: Path, directory: Path) -> Iterator[Running]:
    with cold_server(
        base_model,
        adapter,
        "--",
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={directory / 'certificate.pem'}",
        f"--grpc-server-key={directory / 'key.pem'}",
        f"--grpc-restricted-protocol={APIS}:token=secret",
        f"--http-restricted-api={APIS}:cold-token=secret",
    ) as server:
        yield server


def client_of(server: Running, protocol: str, directory: Path, token: str | None) -> Client:
    """A client that sends the token in the header that the protocol has for it."""
    if protocol == "grpc":
        url, header = server.grpc.replace("grpc", "grpcs"), "triton-grpc-protocol-token"
    else:
        url, header = server.http, "cold-token"
    headers = {} if token is None else {header: token}
    return Client(url, headers=headers, ca_file=directory / "ca.pem", timeout_s=30)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_token_is_asked_for(protocol: str, server: Running, directory: Path) -> None:
    for token in (None, "another one"):
        with client_of(server, protocol, directory, token) as client:
            for call in (client.generate, lambda request: list(client.stream(request))):
                with pytest.raises(AccessDenied, match="restricted"):
                    call(SHORT)
            with pytest.raises(AccessDenied, match="restricted"):
                client.models()
            assert client.health().model_ready


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_with_the_token_all_is_served(protocol: str, server: Running, directory: Path) -> None:
    with client_of(server, protocol, directory, "secret") as client:
        assert len(list(client.stream(SHORT))) == 3
        assert len(client.generate(SHORT).token_ids) == 3
        assert client.models()[0].adapters == ("equations",)


def test_grpc_without_tls_is_refused(server: Running) -> None:
    headers = {"triton-grpc-protocol-token": "secret"}
    with Client(server.grpc, headers=headers) as client, pytest.raises(ServerUnavailable):
        client.generate(SHORT)
