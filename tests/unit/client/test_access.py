"""Headers and TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
import trustme

from cold_client import (
    Access,
    AccessDenied,
    AsyncClient,
    AsyncHttpTransport,
    Client,
    HttpTransport,
    InvalidRequest,
    ServerUnavailable,
    cli,
)

from .fake_grpc import FakeServer, piece

TOKEN = {"Authorization": "Bearer secret"}
ANSWER = [piece("a", 1, final=True)]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def tls_server(authority: trustme.CA) -> Iterator[FakeServer]:
    certificate = authority.issue_cert("127.0.0.1")
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    pair = (certificate.private_key_pem.bytes(), chain)
    fake = FakeServer(grpc.ssl_server_credentials([pair]))
    fake.script = ANSWER
    yield fake
    fake.stop()


def test_headers_are_metadata(server: FakeServer) -> None:
    server.script = ANSWER
    with Client(server.url, headers=TOKEN) as client:
        client.generate("hi")
        assert server.metadata["authorization"] == "Bearer secret"
        server.metadata = {}
        client.models()
        assert server.metadata["authorization"] == "Bearer secret"


async def test_headers_are_metadata_of_asynchronous_calls(server: FakeServer) -> None:
    server.script = ANSWER
    async with AsyncClient(server.url, headers=TOKEN) as client:
        await client.generate("hi")
        assert server.metadata["authorization"] == "Bearer secret"
        server.metadata = {}
        await client.models()
        assert server.metadata["authorization"] == "Bearer secret"


def test_grpc_over_tls(tls_server: FakeServer, ca_file: Path) -> None:
    with Client(tls_server.url, ca_file=ca_file) as client:
        assert client.generate("hi").text == "a"


async def test_asynchronous_grpc_over_tls(tls_server: FakeServer, ca_file: Path) -> None:
    async with AsyncClient(tls_server.url, ca_file=str(ca_file)) as client:
        assert (await client.generate("hi")).text == "a"


def test_a_certificate_of_nobody_known_is_refused(tls_server: FakeServer) -> None:
    with Client(tls_server.url) as client, pytest.raises(ServerUnavailable):
        client.generate("hi")


def test_headers_over_http() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return httpx.Response(401)

    access = Access(headers=TOKEN)
    transport = HttpTransport("http://h", access=access, transport=httpx.MockTransport(handler))
    with Client(transport=transport) as client:
        with pytest.raises(AccessDenied):
            client.generate("hi")
        with pytest.raises(AccessDenied):
            client.health()
    assert seen == ["Bearer secret"] * 2


async def test_headers_over_asynchronous_http() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(403 if request.headers["authorization"] == "Bearer secret" else 500)

    access = Access(headers=TOKEN)
    transport = AsyncHttpTransport(
        "http://h", access=access, transport=httpx.MockTransport(handler)
    )
    async with AsyncClient(transport=transport) as client:
        with pytest.raises(AccessDenied):
            await client.generate("hi")
        with pytest.raises(AccessDenied):
            await client.health()


@pytest.mark.parametrize("url", ["grpcs://h", "https://h"])
def test_a_ca_file_that_is_not_there(url: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"ca_file: .*No such file") as caught:
        Client(url, ca_file=tmp_path / "none.pem")
    assert caught.value.field == "ca_file"


def test_a_ca_file_without_certificates(tmp_path: Path) -> None:
    path = tmp_path / "empty.pem"
    path.write_text("nothing\n")
    with pytest.raises(InvalidRequest, match="no certificates"):
        Client("https://h", ca_file=path)


def test_the_command_takes_both(
    tls_server: FakeServer, ca_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--url", tls_server.url, "--ca-file", str(ca_file)]
    assert cli.main(["generate", *options, "--header", "Authorization: Bearer secret", "hi"]) == 0
    assert capsys.readouterr().out == "a\n"
    assert tls_server.metadata["authorization"] == "Bearer secret"


def test_a_header_without_a_value_is_bad_usage() -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["health", "--header", "nothing"])
    assert caught.value.code == 2
