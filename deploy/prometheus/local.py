"""The shipped configuration, changed for one server that is watched for minutes."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

_SHIPPED = Path(__file__).parent


def configure(directory: Path, *, target: str, interval_s: int) -> Path:
    """Writes a configuration for Prometheus.

    Args:
        directory: where to; must not exist.
        target: host and metrics port of the server.
        interval_s: seconds from scrape to scrape.

    Returns:
        The path for `--config.file`.
    """
    shutil.copytree(_SHIPPED, directory, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (directory / "targets/local.yml").write_text(yaml.safe_dump([{"targets": [target]}]))
    path = directory / "prometheus.yml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    document["global"] = dict.fromkeys(document["global"], f"{interval_s}s")
    path.write_text(yaml.safe_dump(document))
    return path
