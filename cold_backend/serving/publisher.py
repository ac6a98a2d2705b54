"""Metrics on their way to tritonserver, which shows them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from cold_backend.serving.tritonserver import register
from cold_backend.telemetry.load import Load
from cold_backend.telemetry.metrics import FAMILIES, Family, Labels
from cold_backend.telemetry.telemetry import Telemetry

PUBLISH_INTERVAL_S = 0.5


class Publisher:
    """Hands metrics to tritonserver, on a thread of its own.

    Args:
        telemetry: has the metrics.
        load: says how busy the engine is.
    """

    def __init__(self, telemetry: Telemetry, load: Callable[[], Load]) -> None:
        self._telemetry = telemetry
        self._load = load
        self._families = {family: register(family) for family in FAMILIES}
        self._metrics: dict[tuple[Family, Labels], Any] = {}
        self._closing = threading.Event()
        self._publish()  # a server that is ready has its metrics
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Publishes for the last time."""
        self._closing.set()
        self._thread.join()
        # Their destructors write to tritonserver. When Python itself ends there is nothing left to
        # write to, and the process would end with signal 11.
        self._metrics.clear()
        self._families.clear()

    def _run(self) -> None:
        closing = False
        while not closing:
            # Every value is a round trip to tritonserver's process.
            closing = self._closing.wait(PUBLISH_INTERVAL_S)
            self._publish()

    def _publish(self) -> None:
        self._telemetry.sample(self._load())
        changes = self._telemetry.metrics.take()
        for (family, labels), value in changes.counts.items():
            self._metric(family, labels).increment(value)
        for family, level in changes.gauges.items():
            self._metric(family).set(level)
        for family, values in changes.observations.items():
            for seconds in values:
                self._metric(family).observe(seconds)

    def _metric(self, family: Family, labels: Labels = ()) -> Any:
        if (family, labels) not in self._metrics:
            named = dict(zip(family.labels, labels, strict=True))
            buckets = {"buckets": list(family.buckets)} if family.buckets else {}
            self._metrics[family, labels] = self._families[family].Metric(labels=named, **buckets)
        return self._metrics[family, labels]
