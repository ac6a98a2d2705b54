"""The command that becomes tritonserver, and what ends it if its parent is killed."""

from __future__ import annotations

import importlib.util
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cold_backend.config import Settings
from cold_backend.server.endpoints import Endpoints
from cold_backend.server.installation import find_tritonserver
from cold_backend.server.trace_options import SERVICE, trace_options
from cold_backend.server.workspace import SHARED_MEMORY, Workspace
from cold_backend.telemetry.logs import say

SHARED_MEMORY_BYTES = 16 << 20  # of each model process; two vocabulary-wide rows are 0.4 MB
EXIT_TIMEOUT_S = 8  # streams have ended by then; what is left is unloading
_STACK_BYTES = 256 << 20  # reserved for each thread, not taken
_STACKS = 256  # where the address space is limited, each thread reserves one part of so many
_GUARD = "_tritonserver_guard*.so"

# The shell becomes tritonserver. Before, it leaves a watcher behind that reads a pipe whose other
# end only the parent has: when the parent is killed, the watcher waits until `cold` has ended its
# streams, if it has begun any, and then ends and removes all that is left. A signal on the parent's
# death (PR_SET_PDEATHSIG) would come when the thread ends that started the server.
#
# The limit: the reader of JSON is recursive, in release 2.51 without an end. At the usual 8 MB of
# stack, 120 kB of brackets end the process.
_SCRIPT = f"""
workspace=$1 regions=$2 guard=$3 stack=$4
shift 4
exec 3<&0 </dev/null
(
    read -r _ <&3
    if [ -e "$workspace/pulse" ]; then
        tenths=0
        while [ -e "$workspace/lifeline" ] && [ $tenths -lt 100 ]; do
            sleep 0.1
            tenths=$((tenths + 1))
        done
        sleep 1
    fi
    rm -rf "$workspace" "{SHARED_MEMORY}/$regions"*
    kill -9 -$$
) &
exec 3<&-
ulimit -Ss "$stack" || true
if [ "$guard" ]; then export LD_PRELOAD="$guard${{LD_PRELOAD:+:$LD_PRELOAD}}"; fi
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a tritonserver.

    Attributes:
        settings: what it serves.
        endpoints: where it listens.
        workspace: holds its models.
        verbose: let it print its own information and warnings.
        extra: further arguments.
        fused: whether one process computes.
    """

    settings: Settings
    endpoints: Endpoints
    workspace: Workspace
    verbose: bool
    extra: Sequence[str]
    fused: bool

    def start(self, lifeline: int) -> subprocess.Popen[bytes]:
        """Starts it, with what it prints in one unbuffered pipe.

        Args:
            lifeline: a pipe's end for reading, which nobody but this process writes to.

        Raises:
            ConfigError: there is no tritonserver.
        """
        installation = find_tritonserver(self.workspace.path)
        # The model processes take the first python3 on the PATH: this one.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        if not _guard():
            say(
                "kernels/guard is not built: some requests can end the server, see docs/protocol.md"
            )
        own = (str(self.workspace.path), self.workspace.shared_memory_prefix, _guard(), _stack_kb())
        # A session of its own: Ctrl-C in a terminal reaches this process alone, which then ends
        # the streams before it stops tritonserver.
        return subprocess.Popen(
            [
                *("/bin/sh", "-c", _SCRIPT, "cold-server", *own),
                *(str(installation.binary), *installation.arguments, *self._arguments()),
            ],
            env=self._threads() | SERVICE | os.environ | installation.environment | {"PATH": path},
            stdin=lifeline,
            bufsize=0,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _arguments(self) -> list[str]:
        e = self.endpoints
        options = {
            "model-repository": self.workspace.path / "models",
            "http-address": e.host,
            "grpc-address": e.host,
            "metrics-address": e.host,
            "http-port": e.http_port,
            "grpc-port": e.grpc_port,
            "metrics-port": e.metrics_port,
            "exit-timeout-secs": int(self.settings.drain_timeout_s) + EXIT_TIMEOUT_S,
            "log-info": str(self.verbose).lower(),
            "log-warning": str(self.verbose).lower(),
        }
        shared_memory = {
            "shm-region-prefix-name": self.workspace.shared_memory_prefix,
            "shm-default-byte-size": SHARED_MEMORY_BYTES,
            "shm-growth-byte-size": SHARED_MEMORY_BYTES,
        }
        return [
            # The configs are complete, and completing them would import every model once more.
            "--disable-auto-complete-config",
            *(f"--{name}={value}" for name, value in options.items()),
            *(f"--backend-config=python,{name}={value}" for name, value in shared_memory.items()),
            *trace_options(self.settings),
            *self.extra,
        ]

    def _threads(self) -> dict[str, str]:
        """How the model processes' threads behave, unless the environment says otherwise."""
        # Two threads that wait for each other must not share a core, which they may for
        # milliseconds when the server itself is on the other one. Processes with one thread each
        # would all be bound to the first core.
        return {"OMP_PROC_BIND": "true"} if self.fused else {}


def _stack_kb() -> str:
    """What each thread may have as its stack."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    room = _STACK_BYTES if limit == resource.RLIM_INFINITY else limit // _STACKS
    return str(min(_STACK_BYTES, room) >> 10)


def _guard() -> str:
    """The library that keeps tritonserver from crashing, see kernels/guard; empty if not built."""
    package = importlib.util.find_spec("cold_kernels")
    folders = package.submodule_search_locations if package else None
    found = [path for folder in folders or () for path in Path(folder).glob(_GUARD)]
    return str(found[0]) if found else ""
