"""The Helm chart's autoscaler, monitor and rules, against the metrics that the server has."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cold_backend.telemetry.metrics import FAMILIES, Kind
from tests.deploy import chart
from tests.deploy.chart import one, render
from tests.deploy.program import run
from tests.deploy.test_rules import PROMETHEUS
from tests.groups import needs

pytestmark = needs("helm")


@pytest.mark.parametrize(("slots", "percent", "target"), [(16, 75, 12), (1, 50, 1), (10, 100, 10)])
def test_the_autoscaler_asks_for_gauges(slots: int, percent: int, target: int) -> None:
    values = {"settings": {"max_sequences": slots}, "autoscaling": {"slotsPercent": percent}}
    objects = render("nvidia", values)
    scaler = one(objects, "HorizontalPodAutoscaler")["spec"]
    asked = {
        metric["pods"]["metric"]["name"]: metric["pods"]["target"]["averageValue"]
        for metric in scaler["metrics"]
    }
    assert asked == {"cold_running_sequences": str(target), "cold_waiting_sequences": "4"}
    assert set(asked) <= {family.name for family in FAMILIES if family.kind is Kind.GAUGE}
    assert "replicas" not in one(objects, "Deployment")["spec"]
    assert scaler["scaleTargetRef"]["name"] == one(objects, "Deployment")["metadata"]["name"]
    assert one(render("cpu"), "Deployment")["spec"]["replicas"] == 2


@needs("promtool")
def test_the_rules_are_prometheus_own(tmp_path: Path) -> None:
    found = [item for item in render("nvidia") if item["kind"] == "PrometheusRule"]
    for item in found:
        name = item["metadata"]["name"].removeprefix(f"{chart.RELEASE}-")
        own = yaml.safe_load((PROMETHEUS / f"{name}.yml").read_text(encoding="utf-8"))
        assert item["spec"] == own
        rendered = tmp_path / "rules.yml"
        rendered.write_text(yaml.safe_dump(item["spec"]))
        # Which also refuses two groups of one name, as the operator does.
        run("promtool", "check", "rules", rendered)
    assert len(found) == 2


def test_scraped_series_are_those_of_the_rules() -> None:
    (endpoint,) = one(render("nvidia"), "PodMonitor")["spec"]["podMetricsEndpoints"]
    relabelings = endpoint["relabelings"]
    job = {
        rule["targetLabel"]: rule["replacement"] for rule in relabelings if "targetLabel" in rule
    }
    assert job == {"job": "cold"}
    assert 'job="cold"' in (PROMETHEUS / "alerts.yml").read_text(encoding="utf-8")


@needs("promtool")
@pytest.mark.parametrize("metric", ["cold_running_sequences", "cold_waiting_sequences"])
def test_the_adapter_answers_for_each_pod(metric: str, tmp_path: Path) -> None:
    adapter = yaml.safe_load((chart.HELM / "prometheus-adapter.yaml").read_text(encoding="utf-8"))
    (rule,) = adapter["rules"]["custom"]
    resources = {label: kind["resource"] for label, kind in rule["resources"]["overrides"].items()}
    assert resources == {"namespace": "namespace", "pod": "pod"}
    # As the adapter fills it in when it is asked for all pods of a namespace.
    query = rule["metricsQuery"].replace("<<.Series>>", metric).replace("<<.GroupBy>>", "pod")
    query = query.replace("<<.LabelMatchers>>", 'namespace="serving",pod=~"a|b"')
    series = {
        f'{metric}{{job="cold",namespace="{namespace}",pod="{pod}"}}': value
        for namespace, pod, value in (("serving", "a", 3), ("serving", "b", 4), ("other", "a", 5))
    }
    test = {
        "input_series": [{"series": name, "values": str(value)} for name, value in series.items()],
        "promql_expr_test": [
            {
                "expr": query,
                "exp_samples": [
                    {"labels": '{pod="a"}', "value": 3},
                    {"labels": '{pod="b"}', "value": 4},
                ],
            },
            {
                "expr": rule["seriesQuery"],
                "exp_samples": [{"labels": name, "value": value} for name, value in series.items()],
            },
        ],
    }
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"tests": [test]}))
    run("promtool", "test", "rules", file)
