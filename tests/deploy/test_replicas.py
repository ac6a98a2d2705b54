"""Two real servers behind the real proxy: balance, a server that is killed, one that drains."""

from __future__ import annotations

import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from cold_client import Client, ColdClientError, Request, ServerUnavailable
from tests.conftest import free_ports
from tests.deploy.program import wait_for
from tests.deploy.proxy import Proxy, proxy_before, running_sequences
from tests.groups import needs
from tests.server.test_lifecycle import SHARED_MEMORY
from tests.server.test_supervision import Running, cold_server

pytestmark = [pytest.mark.server, needs("haproxy")]

SHORT = Request(text_input="Hello", decoding="base", max_tokens=1)
LONG = Request(text_input="Once upon a time", decoding="base", ignore_eos=True, max_tokens=150)
SCHEMES = ("grpcs", "https")
# One thread each: on a small machine the two would wait for each other.
OPTIONS = ("--threads", "1", "--dtype", "bfloat16")


class Replicas:
    """The servers a and b and the proxy before them; a context manager that ends all three."""

    def __init__(self, base_model: Path, adapter: Path, directory: Path) -> None:
        self._model = (base_model, adapter)
        self._stack = ExitStack()
        self._ports = {name: free_ports(3) for name in "ab"}
        self._stacks = {name: self._stack.enter_context(ExitStack()) for name in "ab"}
        with ThreadPoolExecutor() as pool:
            self.servers = dict(zip("ab", pool.map(self._start, "ab"), strict=True))
        urls = {name: (server.http, server.grpc) for name, server in self.servers.items()}
        self.proxy: Proxy = self._stack.enter_context(proxy_before(directory, **urls))

    def __enter__(self) -> Replicas:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def restart(self) -> None:
        """Starts again, where it was, what has ended; waits until the proxy uses both."""
        for name, server in self.servers.items():
            if server.command.poll() is not None:
                self._stacks[name].close()
                self.servers[name] = self._start(name)
        wait_for(lambda: len(self.proxy.up()) == 4, "a server does not get requests")

    def is_left_out(self, name: str) -> bool:
        """Whether the proxy gives the server no new requests."""
        return not {f"cold_http/{name}", f"cold_grpc/{name}"} & self.proxy.up()

    def _start(self, name: str) -> Running:
        server = cold_server(*self._model, *OPTIONS, ports=self._ports[name])
        return self._stacks[name].enter_context(server)


@pytest.fixture(scope="module")
def pair(
    base_model: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    with pytest.MonkeyPatch.context() as environment:
        # Bound threads of the two servers would share the first core.
        environment.setenv("OMP_PROC_BIND", "false")
        with Replicas(base_model, adapter, tmp_path_factory.mktemp("replicas")) as pair:
            yield pair


@pytest.fixture
def replicas(pair: Replicas) -> Replicas:
    pair.restart()
    return pair


@contextmanager
def four_requests(replicas: Replicas, *, stream: bool = True) -> Iterator[list[str]]:
    """Two requests over each protocol, once all of them run; later how each has ended."""
    ends: list[str] = []

    def follow(client: Client) -> None:
        try:
            result = client.generate(LONG) if not stream else list(client.stream(LONG))[-1]
            ends.append(str(result.finish_reason))
        except ColdClientError as error:
            ends.append(type(error).__name__)

    before = running(replicas)
    with ExitStack() as stack:
        clients = [stack.enter_context(replicas.proxy.client(s)) for s in SCHEMES * 2]
        threads = [threading.Thread(target=follow, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        more = [count + 2 for count in before]
        wait_for(lambda: running(replicas) == more, "requests are not spread over both")
        yield ends
        for thread in threads:
            thread.join(60)


def running(replicas: Replicas) -> list[int]:
    return [running_sequences(server.metrics) for server in replicas.servers.values()]


def kill(server: Running) -> None:
    """The whole server at once, as a machine that fails; what nobody can remove then is removed."""
    command = " ".join(server.process("tritonserver").cmdline())
    processes = psutil.Process(server.command.pid)
    for process in (*processes.children(recursive=True), processes):
        process.kill()
    workspace = re.findall(r"/(cold-server-\w+)/models", command)[0]
    for left in (*SHARED_MEMORY.glob(f"{workspace}-*"), Path(tempfile.gettempdir()) / workspace):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def answers(replicas: Replicas) -> None:
    """New requests are answered, over both protocols."""
    for scheme in SCHEMES:
        with replicas.proxy.client(scheme) as client:
            for _ in range(3):
                assert len(client.generate(SHORT).token_ids) == 1


def test_a_server_that_is_taken_out_gets_no_new_requests(replicas: Replicas) -> None:
    with four_requests(replicas) as ends, ExitStack() as more:
        for backend in ("cold_grpc", "cold_http"):
            assert replicas.proxy.administer(f"set server {backend}/b state drain").strip() == ""
        for client in [more.enter_context(replicas.proxy.client(s)) for s in SCHEMES]:
            next(more.enter_context(client.stream(LONG)))
        wait_for(lambda: running(replicas) == [4, 2], "requests go where they should not")
    assert ends == ["length"] * 4
    for backend in ("cold_grpc", "cold_http"):
        replicas.proxy.administer(f"set server {backend}/b state ready")
    wait_for(lambda: running(replicas) == [0, 0], "a request does not end")


def test_a_killed_server_fails_only_what_runs_on_it(replicas: Replicas) -> None:
    with four_requests(replicas) as streams, four_requests(replicas, stream=False) as others:
        kill(replicas.servers["a"])
        answers(replicas)  # at once: what cannot be connected to is not asked
        wait_for(lambda: replicas.is_left_out("a"), "a server that is dead gets requests")
    for ends in (streams, others):
        assert sorted(ends) == ["ServerUnavailable"] * 2 + ["length"] * 2
    answers(replicas)


def test_a_draining_server_gets_no_new_requests_and_ends_its_streams(replicas: Replicas) -> None:
    with four_requests(replicas) as ends:
        replicas.servers["a"].command.send_signal(signal.SIGTERM)
        wait_for(lambda: replicas.is_left_out("a"), "a server that drains gets requests")
        assert replicas.servers["a"].command.poll() is None
        answers(replicas)
    assert ends == ["length"] * 4
    assert replicas.servers["a"].command.wait(30) == 0


def test_without_any_server_it_says_so(pair: Replicas) -> None:
    for name, server in pair.servers.items():
        server.command.send_signal(signal.SIGINT)
        wait_for(partial(pair.is_left_out, name), "a stopped server gets requests")
    for scheme in SCHEMES:
        with pair.proxy.client(scheme) as client, pytest.raises(ServerUnavailable):
            client.generate(SHORT)
    assert httpx.get(f"http://{pair.proxy.status}/healthz").status_code == 503
