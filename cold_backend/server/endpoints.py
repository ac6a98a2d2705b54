"""Where a server listens, and that nothing else does."""

from __future__ import annotations

import contextlib
import errno
import socket
from dataclasses import dataclass

import psutil

from cold_backend.errors import ConfigError

_PORTS = ("http_port", "grpc_port", "metrics_port")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where the server listens.

    Attributes:
        host: address; loopback unless told otherwise.
    """

    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002

    @property
    def http_url(self) -> str:
        """Where this machine reaches the HTTP port."""
        return f"http://{self._local}:{self.http_port}"

    @property
    def metrics_url(self) -> str:
        """Where this machine reaches the metrics."""
        return f"http://{self._local}:{self.metrics_port}/metrics"

    @property
    def _local(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)

    def check_free(self) -> None:
        """Raises ConfigError if a port cannot be had."""
        for name in _PORTS:
            port = getattr(self, name)
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                # As the servers do: connections of an earlier run that linger are no obstacle.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.host, port))
                except (OSError, OverflowError) as error:
                    reason = getattr(error, "strerror", None) or error
                    raise ConfigError(f"{name}: {self.host}:{port}: {reason}") from error

    def claim(self) -> contextlib.ExitStack:
        """Keeps other servers from starting here, until it is closed or this process ends.

        tritonserver takes its ports when the models are loaded, minutes later perhaps.

        Raises:
            ConfigError: a port is taken, or another server that is starting has claimed it.
        """
        with contextlib.ExitStack() as claims:
            for name in _PORTS:
                claims.enter_context(self._claim_one(name, getattr(self, name)))
            self.check_free()
            return claims.pop_all()

    def is_served_by(self, process: int) -> bool:
        """Whether it is this process, no other, that listens on the HTTP port."""
        with contextlib.suppress(psutil.Error):
            connections = psutil.Process(process).net_connections("tcp")
            return any(
                one.status == psutil.CONN_LISTEN and one.laddr.port == self.http_port
                for one in connections
            )
        return False

    def _claim_one(self, name: str, port: int) -> socket.socket:
        # A name in Linux's abstract namespace: no file, gone with the process, and seen exactly by
        # those who share the network and so the ports.
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0cold-server {self.host}:{port}")
        except OSError as error:
            claim.close()
            if error.errno != errno.EADDRINUSE:
                raise
            raise ConfigError(
                f"{name}: {self.host}:{port}: another cold-server runs or starts there"
            ) from error
        return claim
