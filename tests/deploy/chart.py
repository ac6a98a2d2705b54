"""The Helm chart, as Helm renders it."""

from __future__ import annotations

import subprocess
import tomllib
from typing import Any

import yaml

from tests.conftest import ROOT
from tests.groups import find

HELM = ROOT / "deploy/helm"
CHART = HELM / "cold-server"
EXAMPLES = ("cpu", "nvidia", "ascend")
RELEASE = "cold"

# Every option that adds something.
ON: dict[str, Any] = {
    "image": {"tag": "1.2.3", "pullPolicy": "Always", "pullSecrets": ["registry"]},
    "model": {"adaptersDirectory": "adapters"},
    "settings": {"default_adapter": "equations", "max_wait_s": 1.5, "log_prompts": True},
    "supplementalGroups": [1000],
    "env": [{"name": "ASCEND_PROCESS_LOG_PATH", "value": "/tmp/log"}],
    "extraArgs": ["--verbose", "--", "--log-verbose=1"],
    "podAnnotations": {"example.com/note": "a: b"},
    "podLabels": {"team": "research"},
    "scheduling": {
        "affinity": {"nodeAffinity": {}},
        "nodeSelector": {"disk": "fast"},
        "priorityClassName": "serving",
        "runtimeClassName": "nvidia",
        "schedulerName": "volcano",
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
            }
        ],
    },
    "serviceAccount": {"annotations": {"example.com/role": "reader"}},
    "service": {"headless": True, "annotations": {"example.com/pool": "a"}},
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "host": "cold.example.com",
        "tlsSecret": "cold-tls",
        "annotations": {"nginx.ingress.kubernetes.io/proxy-buffering": "off"},
    },
    "autoscaling": {"enabled": True},
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "networkPolicy": {"enabled": True, "egress": [{"ports": [{"port": 4318}]}]},
}
# Every option that can be left out.
OFF: dict[str, Any] = {
    "serviceAccount": {"create": False},
    "autoscaling": {"enabled": False},
    "podDisruptionBudget": {"enabled": False},
    "podMonitor": {"enabled": False},
    "prometheusRule": {"enabled": False},
    "scheduling": None,
    "readOnlyRootFilesystem": False,
}


class RefusedError(Exception):
    """Helm does not render the chart with these values."""


def render(example: str | None, values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The objects that the values make, over those of an example.

    Raises:
        RefusedError: Helm's message.
    """
    files = ["-f", str(HELM / "examples" / f"{example}.yaml")] if example else []
    done = subprocess.run(
        [find("helm"), "template", RELEASE, CHART, *files, "-f", "-"],
        input=yaml.safe_dump(values or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise RefusedError(done.stderr)
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def one(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The only object of its kind."""
    (found,) = [item for item in objects if item["kind"] == kind]
    return found


def pod(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """The pods' specification."""
    found: dict[str, Any] = one(objects, "Deployment")["spec"]["template"]["spec"]
    return found


def container(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """The pods' only container."""
    (found,) = pod(objects)["containers"]
    return dict(found)


def settings(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """What the settings file holds."""
    return tomllib.loads(one(objects, "ConfigMap")["data"]["settings.toml"])


def defaults() -> dict[str, Any]:
    """values.yaml."""
    found: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return found
