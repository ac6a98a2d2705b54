"""The Helm chart: what it renders, against Kubernetes' schemas and against the server's code."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.prometheus_operator import v1 as operator

from cold_backend import __version__
from cold_backend.config import Settings, settings_from
from cold_backend.server import launch, process
from cold_backend.server.cli import _split
from cold_backend.server.options import options_parser
from tests.conftest import ROOT
from tests.deploy import chart
from tests.deploy.chart import EXAMPLES, OFF, ON, container, one, pod, render
from tests.deploy.program import run
from tests.groups import needs

pytestmark = needs("helm")

# The oldest that Chart.yaml allows, and the newest that there is a schema of.
KUBERNETES = ("1.27", "1.37")
ALWAYS = {"ConfigMap", "Deployment", "Service"}
OPTIONAL = {
    *("HorizontalPodAutoscaler", "Ingress", "NetworkPolicy", "PodDisruptionBudget", "PodMonitor"),
    *("PrometheusRule", "ServiceAccount"),
}


def check(item: dict[str, Any]) -> None:
    """Raises an error if Kubernetes or the Prometheus operator would refuse it."""
    if item["apiVersion"].startswith("monitoring.coreos.com/"):
        model = getattr(operator, item["kind"])
        # Unknown fields are dropped.
        kept = model.model_validate(item).model_dump(mode="json", by_alias=True, exclude_unset=True)
        if kept != item:
            raise ValueError(f"{item['kind']}: {item} has unknown fields, known are {kept}")
        return
    for version in KUBERNETES:
        kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("options", [{}, ON, OFF], ids=["as-it-is", "on", "off"])
@pytest.mark.parametrize("example", EXAMPLES)
def test_kubernetes_accepts_all_objects(example: str, options: dict[str, Any]) -> None:
    objects = render(example, options)
    for item in objects:
        check(item)
    kinds = {item["kind"] for item in objects}
    assert kinds >= ALWAYS
    assert kinds <= ALWAYS | OPTIONAL
    if options:
        assert kinds == (ALWAYS | OPTIONAL if options is ON else ALWAYS)


@pytest.mark.parametrize("kind", sorted(ALWAYS | OPTIONAL))
def test_the_check_refuses_unknown_fields(kind: str) -> None:
    item = next(item for item in render("nvidia", ON) if item["kind"] == kind)
    (item if kind in ("ConfigMap", "ServiceAccount") else item["spec"])["colour"] = "red"
    with pytest.raises((ValueError, kubernetes_validate.ValidationError), match="colour"):
        check(item)


@pytest.mark.parametrize("example", EXAMPLES)
def test_lint_finds_nothing(example: str) -> None:
    values = chart.HELM / "examples" / f"{example}.yaml"
    run("helm", "lint", "--strict", chart.CHART, "--values", values)


def test_the_chart_is_of_this_version() -> None:
    about = yaml.safe_load((chart.CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert about["version"] == about["appVersion"] == __version__


def test_a_package_is_complete(tmp_path: Path) -> None:
    run("helm", "package", chart.CHART, "--destination", tmp_path)
    (package,) = tmp_path.iterdir()
    values = ("-f", chart.HELM / "examples/nvidia.yaml")
    assert "ColdServerDown" in run("helm", "template", chart.RELEASE, package, *values)


def test_notes_say_how_to_reach_it() -> None:
    values = ("-f", chart.HELM / "examples/nvidia.yaml", "-n", "serving")
    notes = run("helm", "install", chart.RELEASE, chart.CHART, *values, "--dry-run=client")
    service = one(render("nvidia"), "Service")["metadata"]["name"]
    assert f"http://{service}.serving:8000 and grpc://{service}.serving:8001" in notes


@pytest.mark.parametrize("options", [{}, ON], ids=["as-it-is", "on"])
@pytest.mark.parametrize(
    ("example", "device"), [("cpu", "cpu"), ("nvidia", "cuda"), ("ascend", "npu")]
)
def test_the_server_reads_its_settings(example: str, device: str, options: dict[str, Any]) -> None:
    objects = render(example, options)
    server = container(objects)
    assert server["command"] == ["cold-server"]
    arguments, extra = _split(server["args"])
    parsed = options_parser().parse_args(arguments)
    mounts = {mount["name"]: mount["mountPath"] for mount in server["volumeMounts"]}
    assert str(parsed.config) == f"{mounts['settings']}/settings.toml"
    assert extra == (["--log-verbose=1"] if options else [])

    values = chart.settings(objects)
    assert values.pop("host") == "0.0.0.0"
    settings = settings_from(values)
    assert settings.device == device
    directories = [settings.base_model, *settings.adapters.values()]
    if options or example == "nvidia":
        directories.append(settings.adapters_dir)
    for directory in directories:
        assert directory.startswith(mounts["models"] + "/")
    for name, value in options.get("settings", {}).items():
        assert getattr(settings, name) == value


def test_adapters_keep_their_order() -> None:
    names = ["zebra", "ant", "mole"]
    adapters = [{"name": name, "path": f"adapters/{name}"} for name in names]
    values = chart.settings(render("cpu", {"model": {"adapters": adapters}}))
    assert list(values["adapters"]) == names
    values.pop("host")
    assert settings_from(values).default_adapter == "zebra"


@pytest.mark.parametrize("text", ['quo"te', "back\\slash", "a & b <c>", "ünï", "tab\there"])
def test_any_text_survives(text: str) -> None:
    values = chart.settings(render("cpu", {"model": {"baseModel": text}}))
    assert values["base_model"] == f"/models/{text}"


@pytest.mark.parametrize(("cores", "threads"), [(6, 6), ("6", 6), ("500m", None), (None, None)])
def test_threads_are_the_cores_that_a_pod_asks_for(cores: Any, threads: int | None) -> None:
    resources = {"requests": {"cpu": cores}}
    assert chart.settings(render("cpu", {"resources": resources})).get("threads") == threads
    own = render("cpu", {"resources": resources, "settings": {"threads": 3}})
    assert chart.settings(own)["threads"] == 3
    assert "threads" not in chart.settings(render("nvidia", {"resources": resources}))


def test_threads_are_bound_or_give_up_their_core() -> None:
    def openmp(example: str, values: dict[str, Any]) -> dict[str, str]:
        return {
            variable["name"]: variable["value"]
            for variable in container(render(example, values))["env"]
            if variable["name"].startswith("OMP_")
        }

    assert openmp("cpu", {}) == {"OMP_PROC_BIND": "false", "OMP_WAIT_POLICY": "passive"}
    assert openmp("cpu", {"bindThreads": True}) == {"OMP_PROC_BIND": "true"}
    assert openmp("nvidia", {}) == {}


def test_ports_are_the_servers() -> None:
    objects = render("nvidia", ON)
    ports = {port["name"]: port["containerPort"] for port in container(objects)["ports"]}
    served = process.Endpoints()
    assert ports == {
        "http": served.http_port,
        "grpc": served.grpc_port,
        "metrics": served.metrics_port,
    }
    service = one(objects, "Service")["spec"]
    assert {port["name"]: port["port"] for port in service["ports"]} == ports
    assert all(port["targetPort"] == port["name"] for port in service["ports"])
    (endpoint,) = one(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"
    allowed = one(objects, "NetworkPolicy")["spec"]["ingress"]
    assert {port["port"] for rule in allowed for port in rule["ports"]} == set(ports)


def test_everything_selects_the_pods_and_nothing_else() -> None:
    objects = render("nvidia", ON)
    labels = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    wanted = {"app.kubernetes.io/name": "cold-server", "app.kubernetes.io/instance": "cold"}
    assert labels.items() >= wanted.items()
    assert one(objects, "Service")["spec"]["selector"] == wanted
    assert one(objects, "NetworkPolicy")["spec"]["podSelector"] == {"matchLabels": wanted}
    for kind in ("Deployment", "PodDisruptionBudget", "PodMonitor"):
        assert one(objects, kind)["spec"]["selector"] == {"matchLabels": wanted}


@pytest.mark.parametrize("drain_s", [0, 1.5, 30, 600])
def test_pods_get_the_time_to_drain(drain_s: float) -> None:
    specification = pod(render("cpu", {"settings": {"drain_timeout_s": drain_s}}))
    (server,) = specification["containers"]
    _, pre_stop_s = server["lifecycle"]["preStop"]["exec"]["command"]
    ending_s = (
        process._STREAMS_TIMEOUT_S
        + process._SETTLE_S
        + (process._KILL_S if drain_s else launch.EXIT_TIMEOUT_S + 5)
    )
    needed_s = int(pre_stop_s) + drain_s + ending_s
    assert specification["terminationGracePeriodSeconds"] > needed_s


@pytest.mark.parametrize("timeout_s", [12, 1800])
def test_probes_wait_for_the_models(timeout_s: int) -> None:
    objects = render("cpu", {"startupTimeoutSeconds": timeout_s})
    server = container(objects)
    for name in ("startupProbe", "livenessProbe"):
        probe = server[name]
        waits_s = probe["periodSeconds"] * probe["failureThreshold"]
        assert timeout_s <= waits_s < timeout_s + probe["periodSeconds"]
    assert one(objects, "Deployment")["spec"]["progressDeadlineSeconds"] > timeout_s


@pytest.mark.parametrize(
    ("example", "values", "device"),
    [
        ("cpu", {}, {}),
        ("nvidia", {}, {"nvidia.com/gpu": 1}),
        ("nvidia", {"deviceResource": "nvidia.com/mig-3g.40gb"}, {"nvidia.com/mig-3g.40gb": 1}),
        ("ascend", {"deviceCount": 2}, {"huawei.com/Ascend910": 2}),
    ],
)
def test_one_value_chooses_the_device(
    example: str, values: dict[str, Any], device: dict[str, int]
) -> None:
    resources = container(render(example, values))["resources"]
    for part in resources.values():
        assert {name: count for name, count in part.items() if "/" in name} == device
    assert {"cpu", "memory"} <= set(resources["requests"])


@pytest.mark.parametrize("example", EXAMPLES)
def test_pods_have_no_rights(example: str) -> None:
    specification = pod(render(example))
    assert specification["automountServiceAccountToken"] is False
    assert specification["securityContext"]["runAsNonRoot"] is True
    dockerfile = "Dockerfile.ascend" if example == "ascend" else "Dockerfile"
    user = f"USER {specification['securityContext']['runAsUser']}\n"
    assert user in (ROOT / dockerfile).read_text(encoding="utf-8")
    (server,) = specification["containers"]
    assert server["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    writable = {m["mountPath"] for m in server["volumeMounts"] if not m.get("readOnly")}
    assert writable == {"/tmp", "/dev/shm"}


@pytest.mark.parametrize(
    ("example", "source"),
    [
        ("cpu", {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}}),
        (
            "nvidia",
            {"nfs": {"server": "nfs.example.com", "path": "/export/models", "readOnly": True}},
        ),
        ("ascend", {"hostPath": {"path": "/data/models", "type": "Directory"}}),
    ],
)
def test_models_are_mounted_read_only(example: str, source: dict[str, Any]) -> None:
    objects = render(example)
    volumes = {item.pop("name"): item for item in pod(objects)["volumes"]}
    assert volumes["models"] == source
    assert volumes["shared-memory"] == {"emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}
    mounts = {mount["mountPath"]: mount for mount in container(objects)["volumeMounts"]}
    assert mounts["/models"] == {"name": "models", "mountPath": "/models", "readOnly": True}
    assert mounts["/dev/shm"] == {"name": "shared-memory", "mountPath": "/dev/shm"}


def test_new_settings_replace_the_pods() -> None:
    def checksum(values: dict[str, Any]) -> str:
        template = one(render("cpu", values), "Deployment")["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/settings"])

    before = checksum({})
    assert checksum({"settings": {"max_queue": 3}}) != before
    assert checksum({"replicas": 3}) == before


def test_settings_that_the_chart_needs_are_the_servers_defaults() -> None:
    settings = chart.defaults()["settings"]
    assert settings.pop("log_format") == "json"
    server = {field.name: field.default for field in dataclasses.fields(Settings)}
    assert settings == {name: server[name] for name in settings}
