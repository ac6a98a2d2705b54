"""deploy/compose.yaml as docker-compose reads it; no engine runs it here."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cold_backend.config import Settings
from tests.conftest import ROOT
from tests.deploy.program import run
from tests.deploy.proxy import CONFIGURATION, environment
from tests.groups import find, needs

pytestmark = needs("docker-compose")

COMPOSE = ROOT / "deploy/compose.yaml"
GIVEN = {"COLD_MODELS": "/srv/models", "COLD_SECRETS": "/srv/secrets"}
SERVERS = ("cold-a", "cold-b")
# Of the image, where compose.yaml names no user: `USER` in ours and in HAProxy's own.
NOT_ROOT = ("cold-server", "haproxy:2.6-alpine")


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    text = run("docker-compose", "-f", COMPOSE, "config", environment=GIVEN)
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Sources of bind mounts and names of volumes, by where they are mounted."""
    split = [volume.split(":") for volume in service["volumes"]]
    return {target: source for source, target, *_ in split}


def test_every_service_is_confined(composed: dict[str, Any]) -> None:
    assert set(composed["services"]) == {*SERVERS, "proxy", "prometheus", "grafana"}
    for name, service in composed["services"].items():
        assert service["restart"] == "unless-stopped", name
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["image"] in NOT_ROOT or int(service["user"]) > 0, name
        assert "build" in service or service["healthcheck"]["test"][0] == "CMD", name
        assert "build" in service or re.search(r":v?\d+\.\d+", service["image"]), name


def test_only_the_proxy_is_reached_from_outside(composed: dict[str, Any]) -> None:
    for name, service in composed["services"].items():
        for port in service.get("ports", []):
            assert name == "proxy" or port.startswith("127.0.0.1:"), (name, port)


@pytest.mark.parametrize("name", SERVERS)
def test_servers_have_memory_and_time(name: str, composed: dict[str, Any]) -> None:
    service = composed["services"][name]
    dockerfile = Path(service["build"]["context"]) / service["build"]["dockerfile"]
    assert "HEALTHCHECK" in dockerfile.read_text(encoding="utf-8")
    assert service["shm_size"] == "1gb"
    grace_s = int(service["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings(base_model="").drain_timeout_s + 10
    assert mounts(service) == {"/models": GIVEN["COLD_MODELS"]}


def test_what_is_mounted_is_there(composed: dict[str, Any]) -> None:
    sources = {
        source for service in composed["services"].values() for source in mounts(service).values()
    }
    files = sources - {GIVEN["COLD_MODELS"], *composed["volumes"]}
    assert CONFIGURATION in map(Path, files)
    for file in files:
        assert Path(file).is_file(), file


@needs("haproxy")
def test_the_proxy_accepts_its_environment(composed: dict[str, Any], tmp_path: Path) -> None:
    given = environment(tmp_path, {})
    settings = composed["services"]["proxy"]["environment"]
    for name in ("COLD_CERTIFICATE", "COLD_TOKENS"):
        assert settings[name].removeprefix("/run/secrets/") in composed["secrets"]
    servers = {name: value for name, value in settings.items() if re.match("COLD_[AB]_", name)}
    assert {value.partition(":")[0] for value in servers.values()} == set(SERVERS)
    files = {name: given[name] for name in ("COLD_CERTIFICATE", "COLD_TOKENS")}
    run("haproxy", "-c", "-f", CONFIGURATION, environment={**settings, **files})


def test_prometheus_finds_the_servers_and_the_rules(composed: dict[str, Any]) -> None:
    mounted = mounts(composed["services"]["prometheus"])
    home = Path("/etc/prometheus")
    document = yaml.safe_load(Path(mounted[str(home / "prometheus.yml")]).read_text())
    for rules in document["rule_files"]:
        assert Path(mounted[str(home / rules)]) == ROOT / "deploy/prometheus" / rules
    (targets,) = yaml.safe_load(Path(mounted[str(home / "targets/compose.yml")]).read_text())
    assert targets == {"targets": [f"{name}:8002" for name in SERVERS]}


def test_grafana_finds_prometheus_and_the_dashboard(composed: dict[str, Any]) -> None:
    mounted = mounts(composed["services"]["grafana"])
    home = "/etc/grafana/provisioning"
    (source,) = yaml.safe_load(Path(mounted[f"{home}/datasources/cold.yml"]).read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load(Path(mounted[f"{home}/dashboards/cold.yml"]).read_text())[
        "providers"
    ]
    assert f"{provider['options']['path']}/dashboard.json" in mounted


@pytest.mark.parametrize("missing", GIVEN)
def test_what_is_not_given_is_named(missing: str) -> None:
    given = {name: value for name, value in GIVEN.items() if name != missing}
    command = [str(part) for part in (find("docker-compose"), "-f", COMPOSE, "config", "-q")]
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "a directory with" in done.stderr
