"""What the Helm chart makes a pod run, run here: its settings, file system, probes and end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cold_client import Client, Request
from tests.conftest import ROOT, START_TIMEOUT_S, free_ports
from tests.deploy.chart import container, one, pod, render
from tests.deploy.program import wait_for
from tests.groups import find, needs

pytestmark = [pytest.mark.server, needs("helm", "bwrap")]

# What an image has of this machine. All else of the file system is as the chart says.
IMAGE = (Path("/usr"), Path(sys.base_prefix), Path(sys.prefix), ROOT)


@contextmanager
def running_pod(
    objects: list[dict[str, Any]], sources: dict[str, Path]
) -> Iterator[subprocess.Popen[bytes]]:
    """bwrap, which runs the pod's container with its user, rights and file system, and no others.

    Args:
        objects: what the chart renders.
        sources: what is mounted at paths below the container's read-only mounts.
    """
    server, user = container(objects), pod(objects)["securityContext"]
    options: list[str | Path] = [
        *("--unshare-user", "--uid", str(user["runAsUser"]), "--gid", str(user["runAsGroup"])),
        *("--unshare-pid", "--as-pid-1", "--die-with-parent", "--clearenv"),
        *("--setenv", "PATH", f"{Path(sys.prefix) / 'bin'}:/usr/bin"),
    ]
    for variable in server["env"]:
        options += ["--setenv", variable["name"], variable["value"]]
    options += ["--proc", "/proc", "--dev", "/dev"]
    # Before the image, which may lie below one of them: in /tmp, say.
    for mount in server["volumeMounts"]:
        if not mount.get("readOnly"):
            options += ["--tmpfs", mount["mountPath"]]
    for path in IMAGE:
        options += ["--ro-bind", path, path]
    for name in ("bin", "lib", "lib64"):
        options += ["--symlink", f"usr/{name}", f"/{name}"]
    for target, source in sources.items():
        options += ["--ro-bind", source, target]
    options += ["--remount-ro", "/", "--chdir", server["workingDir"]]
    with subprocess.Popen(
        [find("bwrap"), *options, "--", *server["command"], *server["args"]]
    ) as outer:
        try:
            yield outer
        finally:
            outer.kill()


def answers(server: dict[str, Any], probe: str, ports: dict[str, int]) -> bool:
    """Whether the kubelet's probe would succeed."""
    ask = server[probe]["httpGet"]
    try:
        reply = httpx.get(f"http://127.0.0.1:{ports[ask['port']]}{ask['path']}", timeout=5)
    except httpx.TransportError:
        return False
    return reply.status_code == 200


def scraped(port: int) -> str:
    return httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text


def is_scraped(line: str, port: int) -> bool:
    return line in scraped(port)


def test_a_pod_serves_and_drains(base_model: Path, adapter: Path, tmp_path: Path) -> None:
    ports = dict(zip(("http", "grpc", "metrics"), free_ports(3), strict=True))
    objects = render(
        "cpu",
        {
            "model": {
                "baseModel": "base",
                "adapters": [{"name": "equations", "path": "equations"}],
            },
            "settings": {"max_context": 256, "max_sequences": 4, "threads": 2},
            "autoscaling": {"enabled": True},
            # Others may use the usual ones on this machine.
            "extraArgs": [f"--{name}-port={port}" for name, port in ports.items()],
        },
    )
    server = container(objects)
    file = tmp_path / "settings.toml"
    file.write_text(one(objects, "ConfigMap")["data"][file.name])
    sources = {
        f"/etc/cold-server/{file.name}": file,
        "/models/base": base_model,
        "/models/equations": adapter,
    }
    long = Request(text_input="Once upon a time", ignore_eos=True, max_tokens=100)
    with running_pod(objects, sources) as outer:
        give_up_s = time.monotonic() + START_TIMEOUT_S
        while not answers(server, "startupProbe", ports):
            assert outer.poll() is None and time.monotonic() < give_up_s
            time.sleep(0.2)
        assert answers(server, "readinessProbe", ports)
        assert answers(server, "livenessProbe", ports)
        for metric in one(objects, "HorizontalPodAutoscaler")["spec"]["metrics"]:
            name = metric["pods"]["metric"]["name"]
            line = f"\n{name} 0"
            wait_for(partial(is_scraped, line, ports["metrics"]), f"no {name}")
        with Client(f"grpc://127.0.0.1:{ports['grpc']}") as client, client.stream(long) as stream:
            next(iter(stream))
            (first,) = psutil.Process(outer.pid).children()
            first.send_signal(signal.SIGTERM)
            wait_for(lambda: not answers(server, "readinessProbe", ports), "is ready for more")
            list(stream)
            assert len(stream.result().token_ids) == 100
        assert outer.wait(pod(objects)["terminationGracePeriodSeconds"]) == 0
