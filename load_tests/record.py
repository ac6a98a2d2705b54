"""The requests of a load test as they end: in memory, and line by line in a file."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from load_tests.samples import Sample


class Record:
    """What was sent, and what came of it.

    Attributes:
        sent: requests.
        samples: of those that have ended.
        begun_s: when the test began, seconds since 1970.
    """

    def __init__(self) -> None:
        self.sent = 0
        self.samples: list[Sample] = []
        self.begun_s = time.time()
        self._file: TextIO | None = None

    def begin(self, path: Path | None) -> None:
        """Forgets everything; from now on writes samples to a file, where one is given."""
        self.close()
        self.sent, self.samples, self.begun_s = 0, [], time.time()
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            # By lines, for those who watch the test.
            self._file = path.open("w", buffering=1)

    def add(self, sample: Sample) -> None:
        """A request has ended."""
        self.samples.append(sample)
        if self._file:
            self._file.write(json.dumps(asdict(sample)) + "\n")

    def close(self) -> None:
        """Writes no more."""
        if self._file:
            self._file.close()
            self._file = None

    def take(self) -> tuple[int, list[dict[str, Any]]]:
        """What has come since the last time, to be sent to another process."""
        taken = self.sent, [asdict(sample) for sample in self.samples]
        self.sent, self.samples = 0, []
        return taken


def read_samples(path: Path) -> list[Sample]:
    """What a record has written so far."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Sample(**json.loads(line)) for line in lines]
