"""Locust users that stream generations from a running server over HTTP.

Reports a request event per generation, and TTFT and ITL as events of type METRIC, in milliseconds.
ITL = (latency - TTFT) / (responses - 1).
"""

from __future__ import annotations

import csv
import json
import random
import time
from pathlib import Path

from locust import HttpUser, constant, events, task

_PROBLEMS = Path(__file__).parent.parent / "examples/data/word_problems/dev.csv"
with _PROBLEMS.open(newline="") as file:
    PROMPTS = [row["Question"] for row in csv.DictReader(file)]


class StreamingUser(HttpUser):
    """Asks for one generation after the other."""

    wait_time = constant(0)

    @task
    def stream(self) -> None:
        body = {"text_input": random.choice(PROMPTS), "stream": True, "max_tokens": 32}
        begin = time.perf_counter()
        arrivals = []
        with self.client.post(
            "/v2/models/cold/generate_stream", json=body, stream=True, catch_response=True
        ) as response:
            for line in response.iter_lines():
                if line.startswith(b"data:"):
                    if "error" in json.loads(line[5:]):
                        response.failure(line.decode())
                    arrivals.append(time.perf_counter())
            if not arrivals:
                response.failure("no response in the stream")
                return
        _report("TTFT", arrivals[0] - begin)
        if len(arrivals) > 1:
            _report("ITL", (arrivals[-1] - arrivals[0]) / (len(arrivals) - 1))


def _report(name: str, seconds: float) -> None:
    events.request.fire(
        request_type="METRIC",
        name=name,
        response_time=seconds * 1000,
        response_length=0,
        exception=None,
        context={},
    )
