"""tritonserver's own spans: they go to where the models send theirs, under the same name."""

from __future__ import annotations

import os

from cold_backend.config import Settings

# What OpenTelemetry's SDK reads, unless the environment has it already.
SERVICE = {"OTEL_SERVICE_NAME": "cold-server"}


def trace_options(settings: Settings) -> list[str]:
    """What tritonserver needs on its command line."""
    if not settings.trace_url:
        return []
    service = (SERVICE | os.environ)["OTEL_SERVICE_NAME"]
    values = (
        "mode=opentelemetry",
        f"opentelemetry,url={settings.trace_url}",
        f"opentelemetry,resource=service.name={service}",
        f"rate={settings.trace_every}",
        "level=TIMESTAMPS",
    )
    return [f"--trace-config={value}" for value in values]
