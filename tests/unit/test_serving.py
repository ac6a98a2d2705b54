"""The adapter to tritonserver's Python API: what comes in, what goes out, and how it ends."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from cold_backend.adapters.catalogue import AdapterCatalogue
from cold_backend.config import Settings
from cold_backend.contract import (
    CANDIDATE,
    PICK,
    AdapterChange,
    AdapterReport,
    Step,
    StepResult,
    pack_changes,
    pack_reports,
    step_of,
    table,
    to_tensors,
    unpack_changes,
    unpack_reports,
)
from cold_backend.errors import (
    ColdError,
    ConfigError,
    DeadlineError,
    InvalidRequestError,
    OverloadedError,
    RequestCancelledError,
    StepError,
    UnknownAdapterError,
)
from cold_backend.requests.answer import FinishReason, Piece
from cold_backend.requests.parser import RequestParser
from cold_backend.requests.request import GenerationRequest
from cold_backend.requests.token import Token
from cold_backend.serving.intake import Intake
from cold_backend.serving.outbox import Outbox
from cold_backend.telemetry import metrics
from cold_backend.telemetry.load import Load, Usage
from cold_backend.telemetry.telemetry import Telemetry
from cold_backend.telemetry.tracing import current_headers
from cold_backend.text.tokenizer import Tokenizer
from tests import pb_utils
from tests.fakes import CountingStep, new_engine, new_scheduler
from tests.steps import choice_step
from tests.tokenizers import make_tokenizer

SETTINGS = Settings(base_model="m", adapters={"a": "p"}, max_context=512)
VOCAB = 400
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACE = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"}
HELLO = {"input_ids": np.array([[5, 6]]), "max_tokens": np.array([[3]], np.int32)}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer that needs no model."""
    return Tokenizer(str(make_tokenizer("byte level", tmp_path_factory.mktemp("small"))), VOCAB)


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    box = Outbox()
    yield box
    box.close()


class FakeIntake:
    """Keeps what it is given, or raises."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.taken: list[tuple[Any, ...]] = []

    def take(self, *arguments: Any) -> None:
        if self.error:
            raise self.error
        self.taken.append(arguments)


def tensors(arrays: dict[str, Any]) -> list[pb_utils.Tensor]:
    return [pb_utils.Tensor(name, array) for name, array in arrays.items()]


def arrays_of(response: pb_utils.InferenceResponse) -> dict[str, list[Any]]:
    return {tensor.name(): tensor.as_numpy().tolist() for tensor in response.output_tensors()}


def error_of(response: pb_utils.InferenceResponse) -> tuple[str, int]:
    error = response.error()
    assert error
    return error.message(), error.code()


def refusal(sender: pb_utils.Sender) -> tuple[str, int]:
    """The text and the code of the one response, which has to be the final one."""
    ((response, flags),) = sender.sent
    assert flags == pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
    assert not response.output_tensors()
    return error_of(response)


class TestAccept:
    @pytest.fixture
    def telemetry(self) -> Telemetry:
        return Telemetry(SETTINGS)

    def test_a_request_is_handed_on(
        self, serving: SimpleNamespace, outbox: Outbox, telemetry: Telemetry, small: Tokenizer
    ) -> None:
        request = pb_utils.InferenceRequest(
            inputs=tensors({"text_input": np.array([["é"]], object), "alpha": np.array([[0.5]])}),
            request_id="7",
            context='{"traceparent": "00-1-2-01"}',
        )
        intake = FakeIntake()
        serving.replies.accept(request, 3.5, intake, outbox, telemetry, small)
        ((inputs, reply, request_id, trace, accepted_s),) = intake.taken
        assert {name: array.tolist() for name, array in inputs.items()} == {
            "text_input": [["é".encode()]],
            "alpha": [[0.5]],
        }
        assert (request_id, trace, accepted_s) == ("7", {"traceparent": "00-1-2-01"}, 3.5)
        assert not request.sender.sent
        request.sender.cancelled = True
        assert reply.is_cancelled()

    def test_a_request_without_a_trace_has_no_headers(
        self, serving: SimpleNamespace, outbox: Outbox, telemetry: Telemetry, small: Tokenizer
    ) -> None:
        intake = FakeIntake()
        serving.replies.accept(pb_utils.InferenceRequest(), 0.0, intake, outbox, telemetry, small)
        assert intake.taken[0][3] == {}

    def test_a_bad_field_is_refused_by_name(
        self, serving: SimpleNamespace, outbox: Outbox, telemetry: Telemetry, small: Tokenizer
    ) -> None:
        engine = new_engine(CountingStep(), new_scheduler(1), 1)
        parser, catalogue = RequestParser(SETTINGS, small), AdapterCatalogue(SETTINGS, None)
        intake = Intake(parser, catalogue, engine, small, telemetry, max_wait_s=60)
        wrong = HELLO | {"alpha": np.array([[2.0]], np.float32)}
        request = pb_utils.InferenceRequest(inputs=tensors(wrong))
        serving.replies.accept(request, 0.0, intake, outbox, telemetry, small)
        text, code = refusal(request.sender)
        assert text.startswith("alpha: ")
        assert text.endswith(" [invalid_argument]")
        assert code == pb_utils.TritonError.INVALID_ARG
        assert telemetry.metrics.take().counts[metrics.ERRORS, ("invalid_argument",)] == 1
        engine.close()
        engine.run()
        intake.close()

    @pytest.mark.parametrize("context", [None, "{"], ids=["intake", "trace"])
    def test_what_nobody_foresaw_is_told_without_its_text(
        self,
        context: str | None,
        serving: SimpleNamespace,
        outbox: Outbox,
        telemetry: Telemetry,
        small: Tokenizer,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        request = pb_utils.InferenceRequest(context=context)
        intake = FakeIntake(ValueError("in /secret"))
        serving.replies.accept(request, 0.0, intake, outbox, telemetry, small)
        assert refusal(request.sender) == (
            "internal error [internal]",
            pb_utils.TritonError.INTERNAL,
        )
        assert [record.exc_info is not None for record in caplog.records] == [True]
        assert telemetry.metrics.take().counts[metrics.ERRORS, ("internal",)] == 1

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (InvalidRequestError("alpha", "is wrong"), "INVALID_ARG"),
            (UnknownAdapterError("lora_name", "no adapter b"), "NOT_FOUND"),
            (OverloadedError("the queue is full", 2), "UNAVAILABLE"),
            (DeadlineError(2), "UNAVAILABLE"),
            (RequestCancelledError(), "CANCELLED"),
            (StepError("a step failed"), "INTERNAL"),
        ],
        ids=lambda value: value if isinstance(value, str) else type(value).__name__,
    )
    def test_errors_have_codes_of_tritonserver(
        self,
        error: ColdError,
        code: str,
        serving: SimpleNamespace,
        outbox: Outbox,
        telemetry: Telemetry,
        small: Tokenizer,
    ) -> None:
        request = pb_utils.InferenceRequest()
        serving.replies.accept(request, 0.0, FakeIntake(error), outbox, telemetry, small)
        assert refusal(request.sender) == (
            f"{error} [{error.code.value}]",
            getattr(pb_utils.TritonError, code),
        )


def token(number: int, expert: int | None = None) -> Token:
    return Token(number, -0.5, -1.0, number if expert is None else expert, 2)


class TestReply:
    @pytest.fixture
    def sender(self) -> pb_utils.Sender:
        return pb_utils.Sender()

    @pytest.fixture
    def request_of_all(self, small: Tokenizer) -> GenerationRequest:
        wanted = ("return_finish_reason", "return_num_output_tokens", "return_contrast")
        flags = {name: np.array([True]) for name in wanted}
        return RequestParser(SETTINGS, small).parse({"input_ids": np.array([5, 6])} | flags)

    @pytest.fixture
    def reply(
        self,
        serving: SimpleNamespace,
        sender: pb_utils.Sender,
        outbox: Outbox,
        small: Tokenizer,
        request_of_all: GenerationRequest,
    ) -> Any:
        return serving.replies.TensorReply(sender, outbox, small).sink_for(request_of_all)

    def test_pieces_are_sent_and_the_last_is_final(
        self, reply: Any, sender: pb_utils.Sender, outbox: Outbox, small: Tokenizer
    ) -> None:
        (a,) = small.encode("a")
        reply.send(Piece("é", (token(7, a),), None))
        reply.send(Piece("", (token(8), token(9)), FinishReason.LENGTH))
        outbox.close()
        assert [flags for _, flags in sender.sent] == [0, 1]
        first, last = (arrays_of(response) for response, _ in sender.sent)
        assert first["text_output"] == [["é".encode()]]
        assert first["token_ids"] == [[7]]
        assert first["contrast_changed"] == [[True]]
        assert first["contrast_expert_texts"] == [[b"a"]]
        assert "finish_reason" not in first
        assert last["token_ids"] == [[8, 9]]
        assert last["num_output_tokens"] == [[2]]
        assert last["finish_reason"] == [[b"length"]]

    def test_nothing_follows_the_end(
        self, reply: Any, sender: pb_utils.Sender, outbox: Outbox
    ) -> None:
        reply.fail(StepError("a step failed"))
        reply.send(Piece("a", (token(7),), FinishReason.STOP))
        reply.fail(StepError("another"))
        outbox.close()
        assert refusal(sender)[0] == "a step failed [internal]"

    def test_who_has_ended_is_not_asked_whether_it_is_cancelled(
        self, reply: Any, sender: pb_utils.Sender, outbox: Outbox
    ) -> None:
        assert not reply.is_cancelled()
        sender.cancelled = True
        assert reply.is_cancelled()
        reply.send(Piece("", (), FinishReason.CANCELLED))
        outbox.close()
        assert not reply.is_cancelled()

    def test_a_client_that_is_gone_stops_nothing(
        self,
        reply: Any,
        sender: pb_utils.Sender,
        outbox: Outbox,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        sender.gone = True
        reply.send(Piece("a", (token(7),), None))
        reply.send(Piece("b", (token(8),), FinishReason.STOP))
        outbox.close()
        assert not sender.sent
        assert not reply.is_cancelled()
        # Said by the reply, not by the outbox, which would call it an error.
        assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]

    def test_outputs_that_cannot_be_made_end_the_request(
        self,
        serving: SimpleNamespace,
        sender: pb_utils.Sender,
        outbox: Outbox,
        request_of_all: GenerationRequest,
    ) -> None:
        class Broken:
            def decode(self, ids: list[int]) -> str:
                raise ValueError("in /secret")

        reply = serving.replies.TensorReply(sender, outbox, cast(Any, Broken())).sink_for(
            request_of_all
        )
        reply.send(Piece("a", (token(7, expert=8),), None))
        reply.send(Piece("b", (token(8),), FinishReason.STOP))
        outbox.close()
        assert refusal(sender) == ("internal error [internal]", pb_utils.TritonError.INTERNAL)


class TestAnswer:
    def test_results_become_tensors(self, serving: SimpleNamespace) -> None:
        requests = [pb_utils.InferenceRequest(inputs=tensors({"x": np.array([n])})) for n in (1, 2)]
        responses = serving.steps.answer("m", requests, lambda inputs: {"y": inputs["x"] * 10})
        assert [arrays_of(response) for response in responses] == [{"y": [10]}, {"y": [20]}]
        assert not any(response.has_error() for response in responses)

    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (ConfigError("slots: no such slot"), "slots: no such slot [internal]"),
            (ValueError("in /secret"), "internal error [internal]"),
        ],
    )
    def test_an_exception_fails_its_request_alone(
        self,
        error: Exception,
        text: str,
        serving: SimpleNamespace,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def compute(inputs: dict[str, Any]) -> dict[str, Any]:
            if inputs["x"][0] == 1:
                raise error
            return inputs

        requests = [pb_utils.InferenceRequest(inputs=tensors({"x": np.array([n])})) for n in (1, 2)]
        failed, done = serving.steps.answer("m", requests, compute)
        assert error_of(failed) == (text, pb_utils.TritonError.INTERNAL)
        assert arrays_of(done) == {"x": [2]}
        assert str(error) in caplog.text

    def test_what_it_does_belongs_to_the_callers_trace(self, serving: SimpleNamespace) -> None:
        seen: list[dict[str, str]] = []

        def compute(inputs: dict[str, Any]) -> dict[str, Any]:
            seen.append(current_headers())
            return {}

        for headers in (TRACE, {}):
            serving.steps.answer("m", [pb_utils.InferenceRequest(parameters=headers)], compute)
        assert [TRACE_ID in headers.get("traceparent", "") for headers in seen] == [True, False]


class TestExecuteStep:
    def test_step_and_result_survive_the_way(self, serving: SimpleNamespace) -> None:
        step = choice_step(bans=[3, 4], counts={5: 2}, seed=2**63 + 1, alpha=0.25)
        change = AdapterChange(1, "b", "/b", (1, 2))
        report = AdapterReport(0, "a", (3, 4), "it has no weights", passing=True)
        picks, candidates = np.zeros(1, PICK), np.zeros(2, CANDIDATE)
        picks["token"], candidates["token"] = 2**40, [7, 8]
        came: list[Step] = []

        def cold_step(request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
            came.append(step_of(serving.tritonserver.read_tensors(request)))
            result = StepResult(picks, candidates, loads=pack_reports([report]))
            return pb_utils.InferenceResponse(tensors(to_tensors(result)))

        pb_utils.serve("cold_step", cold_step)
        sent = Step(**{**parts(step), "adapters": pack_changes([change])})
        result = serving.steps.execute_step(sent)
        for name, part in parts(sent).items():
            np.testing.assert_array_equal(parts(came[0])[name], part, strict=True)
        assert unpack_changes(came[0].adapters) == [change]
        assert result.picks.tolist() == picks.tolist()
        assert result.candidates.tolist() == candidates.tolist()
        assert unpack_reports(result.loads) == [report]

    def test_the_span_goes_along(self, serving: SimpleNamespace) -> None:
        parameters: list[str] = []

        def cold_step(request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
            parameters.append(request.parameters())
            empty = StepResult(np.zeros(0, PICK), table(CANDIDATE, []))
            return pb_utils.InferenceResponse(tensors(to_tensors(empty)))

        def compute(inputs: dict[str, Any]) -> dict[str, Any]:
            serving.steps.execute_step(choice_step())
            return {}

        pb_utils.serve("cold_step", cold_step)
        serving.steps.answer("m", [pb_utils.InferenceRequest(parameters=TRACE)], compute)
        assert TRACE_ID in parameters[0]

    def test_an_error_of_a_model_is_a_failed_step(self, serving: SimpleNamespace) -> None:
        error = pb_utils.TritonError("internal error [internal]")
        pb_utils.serve("cold_step", lambda _: pb_utils.InferenceResponse(error=error))
        with pytest.raises(StepError, match=r"internal error \[internal\]"):
            serving.steps.execute_step(choice_step())


def parts(step: Step) -> dict[str, Any]:
    return {name: getattr(step, name) for name in Step.__slots__}


def test_metrics_are_published(serving: SimpleNamespace) -> None:
    telemetry = Telemetry(SETTINGS, restarts=2)
    loads = [Load(running=2, waiting=3, adapters=1, memory=Usage())]
    publisher = serving.publisher.Publisher(telemetry, lambda: loads[-1])
    assert {family.name for family in metrics.FAMILIES} == set(pb_utils.published)
    assert pb_utils.published["cold_running_sequences"] == {(): [2]}
    assert pb_utils.published["cold_restarts"] == {(): [2]}
    assert pb_utils.published["cold_errors_total"][("code", "internal"),] == [0]

    telemetry.metrics.add(metrics.REQUESTS, "a", "cold", "stop", value=2)
    telemetry.metrics.add(metrics.STEPS)
    telemetry.metrics.observe(metrics.TTFT, 0.25)
    telemetry.metrics.observe(metrics.TTFT, 0.5)
    loads.append(Load(running=0, waiting=1, adapters=1, memory=Usage(blocks=64, held=16)))
    publisher.close()
    labels = (("adapter", "a"), ("decoding", "cold"), ("outcome", "stop"))
    assert pb_utils.published["cold_requests_total"] == {labels: [2]}
    assert pb_utils.published["cold_steps_total"] == {(): [1]}
    assert pb_utils.published["cold_time_to_first_token_seconds"] == {(): [0.25, 0.5]}
    assert pb_utils.published["cold_running_sequences"] == {(): [0]}
    assert pb_utils.published["cold_waiting_sequences"] == {(): [1]}
    assert pb_utils.published["cold_kv_used_ratio"] == {(): [0.25]}

    publisher.close()  # by tritonserver, after cold-server
    gc.collect()
    assert not len(pb_utils.alive)


def test_metrics_are_published_again_and_again(
    serving: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.publisher, "PUBLISH_INTERVAL_S", 0.01)
    telemetry = Telemetry(SETTINGS)
    idle = Load(running=0, waiting=0, adapters=0, memory=Usage())
    publisher = serving.publisher.Publisher(telemetry, lambda: idle)
    for steps in (1, 2):
        telemetry.metrics.add(metrics.STEPS)
        eventually_published("cold_steps_total", steps)
    publisher.close()


def eventually_published(family: str, value: float) -> None:
    give_up_s = time.monotonic() + 20
    while pb_utils.published[family].get(()) != [value]:
        assert time.monotonic() < give_up_s
        time.sleep(0.005)
