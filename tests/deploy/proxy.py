"""The proxy of deploy/proxy, as the tests run it before real servers."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import trustme

from cold_client import AsyncClient, Client
from tests.conftest import ROOT, free_ports
from tests.deploy.program import running, wait_for

CONFIGURATION = ROOT / "deploy/proxy/haproxy.cfg"
TOKEN = "a token of this test run"
_UP = re.compile(r'haproxy_server_status\{proxy="(\w+)",server="(\w+)",state="UP"\} 1')


@dataclass(frozen=True)
class Proxy:
    """Where the proxy listens."""

    address: str
    status: str
    ca_file: Path
    tokens: Path
    socket: Path
    process: subprocess.Popen[bytes]

    def url(self, scheme: str) -> str:
        return f"{scheme}://{self.address}"

    def client(self, scheme: str, *, token: str = TOKEN, timeout_s: float = 60) -> Client:
        headers = {"Authorization": f"Bearer {token}"}
        url = self.url(scheme)
        return Client(url, headers=headers, ca_file=self.ca_file, timeout_s=timeout_s)

    def async_client(self, scheme: str) -> AsyncClient:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return AsyncClient(self.url(scheme), headers=headers, ca_file=self.ca_file)

    def http(self) -> httpx.Client:
        """A bare HTTP client with the token."""
        return httpx.Client(
            base_url=self.url("https"),
            headers={"Authorization": f"Bearer {TOKEN}"},
            verify=ssl.create_default_context(cafile=str(self.ca_file)),
            timeout=30,
        )

    def up(self) -> set[str]:
        """The servers, as `backend/server`, that get new requests."""
        found = _UP.findall(httpx.get(f"http://{self.status}/metrics").text)
        return {f"{backend}/{server}" for backend, server in found}

    def administer(self, command: str) -> str:
        """What the administrator's socket answers."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self.socket))
            connection.sendall(command.encode() + b"\n")
            return connection.makefile().read()


def environment(directory: Path, servers: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """What the configuration asks of its environment, with certificate and tokens in `directory`.

    Args:
        servers: URLs for HTTP and gRPC of the servers a and b.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(directory / "certificate.pem"))
    (directory / "tokens").write_text(digest(TOKEN))
    proxy, status = free_ports(2)
    return {
        "COLD_CERTIFICATE": str(directory / "certificate.pem"),
        "COLD_TOKENS": str(directory / "tokens"),
        "COLD_PROXY": f"127.0.0.1:{proxy}",
        "COLD_PROXY_STATUS": f"127.0.0.1:{status}",
        "COLD_PROXY_SOCKET": str(directory / "socket"),
        **{
            f"COLD_{name.upper()}_{protocol}": urlsplit(url).netloc
            for name, urls in servers.items()
            for protocol, url in zip(("HTTP", "GRPC"), urls, strict=True)
        },
    }


def digest(token: str) -> str:
    """The line for a token."""
    return hashlib.sha256(token.encode()).hexdigest() + "\n"


@contextmanager
def proxy_before(directory: Path, **servers: tuple[str, str]) -> Iterator[Proxy]:
    """The proxy while it runs, from when it finds all servers ready."""
    settings = environment(directory, servers)
    status = settings["COLD_PROXY_STATUS"]

    def ready() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"http://{status}/healthz").is_success
        return False

    command = ("haproxy", "-W", "-f", CONFIGURATION)
    with running(*command, log=directory / "log", ready=ready, environment=settings) as process:
        proxy = Proxy(
            settings["COLD_PROXY"],
            status,
            directory / "ca.pem",
            directory / "tokens",
            directory / "socket",
            process,
        )
        wait_for(lambda: len(proxy.up()) == 2 * len(servers), "a server is not ready")
        yield proxy


def running_sequences(metrics: str) -> int:
    """How many requests hold a slot of the server, by its own metrics."""
    lines = httpx.get(metrics).text.splitlines()
    (value,) = (line.split()[-1] for line in lines if line.startswith("cold_running_sequences "))
    return int(float(value))
