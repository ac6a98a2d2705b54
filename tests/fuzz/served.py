"""Inputs to a running server and a running gateway, many at a time, and what is left afterwards."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from cold_client import Client, Request
from cold_client._protocol import MODEL, json_object
from tests.fuzz.strategies import RawTensor, gateway_bodies, generate_bodies, tensors
from tests.fuzz.verdict import WrongVerdictError, check_message, expect

_AT_ONCE = 16
_TIMEOUT_S = 120
_ADDRESSES = ("/v2/models/cold/generate", "/v2/models/cold/generate_stream")

_GAUGES = ("cold_running_sequences", "cold_waiting_sequences", "cold_restarts")

Outcomes = Counter[str]
Send = Callable[[Any], str]


def fuzz_http(url: str, count: int, chance: int) -> Outcomes:
    """Bodies to `generate` and `generate_stream`; outcomes by number of inputs.

    Raises:
        WrongVerdictError: an answer is neither right nor a proper refusal; has the input.
    """
    with httpx.Client(base_url=url, timeout=_TIMEOUT_S) as http:

        def send(body: bytes) -> str:
            address = _ADDRESSES[len(body) % 2]
            answer = http.post(address, content=body)
            events = answer.text.removeprefix("data:").split("\n\ndata:")
            replies = [json_object(event.encode()) for event in events]
            for reply in replies:
                if "error" in reply:
                    check_message(reply["error"])
                    return "refused"
                expect(isinstance(reply.get("text_output"), str), reply)
            expect(answer.status_code == 200, answer.status_code)
            return "answered"

        return _send_all(generate_bodies(), send, count, chance)


def fuzz_grpc(target: str, count: int, chance: int) -> Outcomes:
    """Tensors over gRPC. Raises as `fuzz_http`."""
    with grpc.insecure_channel(target) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def send(inputs: list[RawTensor]) -> str:
            message = pb.ModelInferRequest(model_name=MODEL)
            for each in inputs:
                message.inputs.add(name=each.name, datatype=each.datatype, shape=each.shape)
                message.raw_input_contents.append(each.raw)
            replies = list(stub.ModelStreamInfer(iter([message]), timeout=_TIMEOUT_S))
            expect(replies, "no reply")
            if replies[-1].error_message:
                check_message(replies[-1].error_message)
                return "refused"
            return "answered"

        return _send_all(tensors(), send, count, chance)


def fuzz_gateway(url: str, count: int, chance: int) -> Outcomes:
    """Bodies to both of OpenAI's endpoints. Raises as `fuzz_http`."""
    kinds = {"/v1/chat/completions": True, "/v1/completions": False}
    outcomes = Outcomes()
    with httpx.Client(base_url=url, timeout=_TIMEOUT_S) as http:
        for address, chat in kinds.items():

            def send(body: bytes, address: str = address) -> str:
                answer = http.post(address, content=body)
                if answer.status_code == 200:
                    expect('"choices"' in answer.text and '"error"' not in answer.text, answer.text)
                    return "answered"
                error = answer.json()["error"]
                expect(answer.status_code in (400, 404) and "Traceback" not in answer.text, error)
                expect(error["param"] or error["message"].startswith("body: "), error)
                return "refused"

            outcomes += _send_all(gateway_bodies(chat=chat), send, count // 2, chance)
    return outcomes


class Health:
    """What a server must still be after a run: the same processes, idle, and right.

    Args:
        http: its URL.
        metrics: the URL of its metrics.
        process: what has it as a child; this process by default.
    """

    def __init__(self, http: str, metrics: str, process: psutil.Process | None = None) -> None:
        self._http = http
        self._metrics = metrics
        self._parent = process or psutil.Process()
        self._processes = self._running()

    def check(self, request: Request, token_ids: Iterable[int]) -> None:
        """Raises WrongVerdictError."""
        with Client(self._http) as client:
            answer = client.generate(request)
        expect(answer.token_ids == tuple(token_ids), answer)
        expect(self._running() == self._processes, "a process was replaced")
        give_up_s = time.monotonic() + _TIMEOUT_S
        while self._busy() and time.monotonic() < give_up_s:
            time.sleep(0.2)
        expect(not self._busy(), "a slot was not given back")

    def _busy(self) -> bool:
        """Whether the gauges, which are half a second late, show anything but idleness."""
        lines = httpx.get(self._metrics).text.splitlines()
        values = {line.split()[0]: float(line.split()[1]) for line in lines if line[0] != "#"}
        return any(values[gauge] for gauge in _GAUGES)

    def _running(self) -> set[int]:
        children = self._parent.children(recursive=True)
        return {child.pid for child in children if "triton" in child.name()}


def _send_all(strategy: st.SearchStrategy[Any], send: Send, count: int, chance: int) -> Outcomes:
    """Draws inputs and sends them from many threads; all that went wrong is in the error."""
    drawn: list[Any] = []

    @seed(chance)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(value: Any) -> None:
        drawn.append(value)

    draw()

    def judge(value: Any) -> str:
        try:
            return send(value)
        except Exception as error:
            return f"WRONG: {error!r} for {value!r}"

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        outcomes = Outcomes(pool.map(judge, drawn))
    wrong = [outcome for outcome in outcomes if outcome.startswith("WRONG")]
    if wrong:
        raise WrongVerdictError("\n".join(wrong[:20]))
    return outcomes
