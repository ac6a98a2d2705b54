"""The Helm chart's values: which are refused, and that the documentation lists them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from cold_backend import config
from cold_backend.config import Settings, settings_from
from cold_backend.errors import ConfigError
from tests.conftest import ROOT
from tests.deploy import chart
from tests.deploy.chart import RefusedError, render
from tests.groups import needs

pytestmark = needs("helm")

SCHEMA = json.loads((chart.CHART / "values.schema.json").read_text(encoding="utf-8"))
SETTINGS: dict[str, dict[str, Any]] = SCHEMA["properties"]["settings"]["properties"]
RANGES = [name for name, schema in SETTINGS.items() if "minimum" in schema]
CHOICES = {"dtype": config.DTYPES, "execution": config.EXECUTIONS, "log_format": config.LOG_FORMATS}


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"colour": "red"}, "colour"),
        ({"replicas": -1}, "/replicas"),
        ({"accelerator": "tpu"}, "/accelerator"),
        ({"image": {"repository": ""}}, "/image/repository"),
        ({"image": {"digest": "x"}}, "/image': additional properties 'digest'"),
        ({"model": {"baseModel": "/abs"}}, "/model/baseModel"),
        ({"model": {"baseModel": ""}}, "/model/baseModel"),
        ({"model": {"volume": {"hostPath": "/models"}}}, "/model/volume"),
        ({"model": {"adapters": {"a": "dir"}}}, "/model/adapters"),
        ({"model": {"adapters": [{"name": "a b", "path": "d"}]}}, "/model/adapters/0/name"),
        ({"model": {"adapters": [{"name": "a"}]}}, "/model/adapters/0"),
        ({"settings": {"max_seq": 3}}, "/settings': additional properties 'max_seq'"),
        ({"settings": {"device": "npu"}}, "/settings': additional properties 'device'"),
        ({"settings": {"trace_url": "collector:4318"}}, "/settings/trace_url"),
        ({"settings": {"max_queue": "many"}}, "/settings/max_queue"),
        ({"settings": {"drain_timeout_s": None}}, "/settings': missing property 'drain_timeout_s'"),
        ({"resources": {"claims": []}}, "/resources"),
        ({"sharedMemory": "a lot"}, "/sharedMemory"),
        ({"scheduling": {"hostNetwork": True}}, "/scheduling"),
        ({"ingress": {"enabled": True}}, "/ingress/host"),
        ({"autoscaling": {"slotsPercent": 0}}, "/autoscaling/slotsPercent"),
        ({"podMonitor": {"interval": 15}}, "/podMonitor/interval"),
        ({"networkPolicy": {"clients": [{}]}}, "/networkPolicy/clients/0"),
        # What is seen when the chart is rendered.
        ({"settings": {"default_adapter": "x"}}, "settings.default_adapter: x is not among"),
        ({"settings": {"max_step_tokens": 8}}, "settings.max_step_tokens: must be at least"),
        ({"settings": {"max_adapters": 2}}, "settings.max_adapters: must be 0 or at least"),
        (
            {"model": {"adapters": [{"name": "a", "path": "b"}, {"name": "a", "path": "c"}]}},
            "model.adapters: two have the name a",
        ),
        ({"autoscaling": {"minReplicas": 9}}, "autoscaling.maxReplicas: must be at least"),
        ({"rollingUpdate": {"maxSurge": 0}}, "rollingUpdate.maxSurge: must be at least 1"),
        ({"service": {"type": "NodePort", "headless": True}}, "service.headless: only with"),
    ],
    ids=str,
)
def test_wrong_values_are_refused_by_name(values: dict[str, Any], field: str) -> None:
    with pytest.raises(RefusedError, match=re.escape(field)):
        render("cpu", values)


def test_without_values_the_error_says_what_is_needed() -> None:
    with pytest.raises(RefusedError) as error:
        render(None)
    for field in ("/image/repository", "/model/baseModel", "/model/volume"):
        assert field in str(error.value)


def test_the_schema_knows_the_servers_settings() -> None:
    own = {
        "base_model",
        "adapters",
        "adapters_dir",
        "device",
    }  # the chart's to say, from its other values
    assert set(SETTINGS) == {field.name for field in dataclasses.fields(Settings)} - own
    assert {name: tuple(SETTINGS[name]["enum"]) for name in CHOICES} == CHOICES


@pytest.mark.parametrize("name", RANGES)
def test_ranges_are_the_servers(name: str) -> None:
    # What max_step_tokens must exceed.
    others = {"base_model": "x", "max_sequences": 1}
    low, high = SETTINGS[name]["minimum"], SETTINGS[name]["maximum"]
    if name == "max_sequences":
        others["max_step_tokens"] = high
    step = 1 if SETTINGS[name]["type"] == "integer" else 0.01
    for value in (low, high):
        assert getattr(settings_from(others | {name: value}), name) == value
    for value in (low - step, high + step):
        with pytest.raises(ConfigError, match=f"^{name}: must be between"):
            settings_from(others | {name: value})


def paths(values: dict[str, Any], before: str = "") -> Iterator[str]:
    """Names of the values that can be set, with dots."""
    for name, value in values.items():
        whole = before + name
        if isinstance(value, dict) and value and whole not in ("settings", "resources"):
            yield from paths(value, whole + ".")
        else:
            yield whole


def test_the_page_lists_all_values() -> None:
    page = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
    listed = [
        name.strip("`")
        for row in re.findall(r"^\| (`.+?) \|", page, re.MULTILINE)
        for name in row.split(", ")
    ]
    assert sorted(listed) == sorted(paths(chart.defaults()))
