"""Prometheus' configuration and rules, checked by promtool."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.deploy.program import run
from tests.groups import needs

PROMETHEUS = ROOT / "deploy/prometheus"
RULES = [PROMETHEUS / "recording.yml", PROMETHEUS / "alerts.yml"]


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


@needs("promtool")
def test_the_configuration_is_valid() -> None:
    run("promtool", "check", "config", "--lint-fatal", PROMETHEUS / "prometheus.yml")


@needs("promtool")
@pytest.mark.parametrize("rules", RULES, ids=lambda path: path.stem)
def test_rules_are_valid(rules: Path) -> None:
    run("promtool", "check", "rules", "--lint-fatal", rules)


@needs("promtool")
def test_rules_do_what_they_say() -> None:
    run("promtool", "test", "rules", PROMETHEUS / "tests.yml")


def test_every_alert_is_tested() -> None:
    tests = yaml.safe_load((PROMETHEUS / "tests.yml").read_text(encoding="utf-8"))["tests"]
    raised = {
        case["alertname"]
        for test in tests
        for case in test.get("alert_rule_test", [])
        if case.get("exp_alerts")
    }
    assert raised == {alert["alert"] for alert in alerts()}


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_every_alert_says_what_to_do(alert: dict[str, Any]) -> None:
    annotations = alert["annotations"]
    assert annotations["summary"]
    assert annotations["description"]
    page, _, anchor = annotations["runbook"].partition("#")
    assert anchor == alert["alert"].lower()
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert alert["alert"] in headings
