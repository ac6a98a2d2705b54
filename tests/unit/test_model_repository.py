"""The models that tritonserver loads, over a tiny model and a stand-in for tritonserver."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from cold_backend.adapters.adapter import find_adapter_stamp
from cold_backend.config import Settings
from cold_backend.contract import (
    COPY,
    DECIDED,
    AdapterChange,
    AdapterReport,
    Step,
    StepResult,
    pack_changes,
    table,
    unpack_reports,
)
from cold_backend.errors import StepError
from cold_backend.loading import load_fused, load_store
from cold_backend.serving import lifeline
from cold_backend.serving.pulse import read_pulse
from cold_kernels import Mode
from tests import pb_utils
from tests.families import make_adapter, make_model
from tests.steps import BOTH, choice_step, rows
from tests.tokenizers import make_tokenizer

ROOT = Path(__file__).parent.parent.parent
VOCAB = 400
TABLE = ("TYPE_UINT8", (-1, -1))
TYPES = {
    "tokens": ("TYPE_INT64", (-1,)),
    "blocks": ("TYPE_INT32", (-1,)),
    "expert_blocks": ("TYPE_INT64", (1,)),
    "base_blocks": ("TYPE_INT64", (1,)),
    "adapters": ("TYPE_STRING", (-1,)),
    "loads": ("TYPE_STRING", (-1,)),
    "base_logits": ("TYPE_FP32", (-1, -1)),
    "expert_logits": ("TYPE_FP32", (-1, -1)),
} | dict.fromkeys(
    ("rows", "choices", "biases", "counts", "copies", "picks", "candidates", "alternatives"), TABLE
)
STEP = {one.name for one in fields(Step)}
RESULT = {one.name for one in fields(StepResult)}
_ROWS = {"tokens", "rows", "blocks", "copies"}  # what a language model needs for them
ENSEMBLE = ("base_lm", "adapter_lm", "cold_decoder")


def config_of(model: str) -> Any:
    text = (ROOT / "model_repository" / model / "config.pbtxt").read_text()
    return text_format.Parse(text, ModelConfig())


@pytest.mark.parametrize(
    ("model", "inputs", "outputs"),
    [
        ("cold_step", STEP, RESULT),
        ("base_lm", _ROWS, {"base_logits", "base_blocks"}),
        ("adapter_lm", _ROWS | {"adapters"}, {"expert_logits", "expert_blocks", "loads"}),
        (
            "cold_decoder",
            STEP - {"tokens", "blocks", "copies", "adapters"} | {"base_logits", "expert_logits"},
            {*DECIDED},
        ),
    ],
)
def test_models_declare_the_contract(model: str, inputs: set[str], outputs: set[str]) -> None:
    config = config_of(model)
    for declared, names in ((config.input, inputs), (config.output, outputs)):
        found = {one.name: (one.data_type, tuple(one.dims)) for one in declared}
        enum = ModelConfig.DESCRIPTOR.file.pool.FindEnumTypeByName("inference.DataType")
        assert found == {
            name: (enum.values_by_name[TYPES[name][0]].number, TYPES[name][1]) for name in names
        }


@pytest.mark.parametrize("model", ENSEMBLE)
def test_the_ensemble_gives_a_model_what_it_declares(model: str) -> None:
    (step,) = [
        one for one in config_of("cold_step").ensemble_scheduling.step if one.model_name == model
    ]
    config = config_of(model)
    assert set(step.input_map) == {one.name for one in config.input}
    assert set(step.output_map) == {one.name for one in config.output}


class Ensemble:
    """`cold_step` as tritonserver runs it: what its config.pbtxt says."""

    def __init__(self, models: dict[str, Any]) -> None:
        self._models = models
        self._config = config_of("cold_step")

    def answer(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        values = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        for step in self._config.ensemble_scheduling.step:
            part = pb_utils.InferenceRequest(
                inputs=[pb_utils.Tensor(name, values[key]) for name, key in step.input_map.items()],
                parameters=json.loads(request.parameters()),
            )
            response: pb_utils.InferenceResponse
            (response,) = self._models[step.model_name].execute([part])
            if response.has_error():
                return response
            given = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
            assert set(given) == set(step.output_map)
            values |= {key: given[name] for name, key in step.output_map.items()}
        outputs = [pb_utils.Tensor(one.name, values[one.name]) for one in self._config.output]
        return pb_utils.InferenceResponse(outputs)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a tokenizer, an adapter, and a folder of adapters with another."""
    path = tmp_path_factory.mktemp("served")
    make_tokenizer("byte level", make_model("llama", path / "base", vocab_size=VOCAB))
    make_adapter(path / "base", path / "one")
    make_adapter(path / "base", path / "folder/two", seed=2)
    return path


Start = Callable[..., Any]


@pytest.fixture
def settings(served: Path) -> Settings:
    return Settings(
        base_model=str(served / "base"),
        adapters={"one": str(served / "one")},
        adapters_dir=str(served / "folder"),
        device="cpu",
        dtype="float32",
        max_sequences=4,
        max_context=96,
        threads=torch.get_num_threads(),
    )


@pytest.fixture
def start(
    serving: SimpleNamespace, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Start:
    """Starts a model as tritonserver does."""
    monkeypatch.setattr(lifeline, "set_up_log", lambda *_: None)
    monkeypatch.setattr(lifeline, "collect_from_now_on", gc.enable)
    parameters = {name: str(tmp_path / name) for name in ("problem", "pulse", "lifeline")}
    parameters |= {"settings": str(tmp_path / "settings.json"), "restarts": "3"}
    strings = {name: {"string_value": value} for name, value in parameters.items()}

    def started(name: str, execution: str = "auto") -> Any:
        dataclasses.replace(settings, execution=execution).save(tmp_path / "settings.json")
        path = ROOT / "model_repository" / name / "1/model.py"
        spec = importlib.util.spec_from_file_location(f"model_of_{name}", path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.TritonPythonModel()
        model.initialize({"model_name": name, "model_config": json.dumps({"parameters": strings})})
        return model

    return started


def empty_step(change: AdapterChange) -> Step:
    """A step that is there for loading alone."""
    empty: dict[str, Any] = {one: getattr(choice_step(), one)[:0] for one in Step.__slots__}
    return Step(**(empty | {"adapters": pack_changes([change])}))


def steps_of_two() -> list[Step]:
    """A prompt with an adapter for choices of each kind, and a token after a copy of its blocks."""
    plain = choice_step(bans=[7], counts={30: 2}, repetition_penalty=1.3)
    kinds = ({"mode": Mode.COLD}, {"temperature": 0.7, "seed": 9}, {"candidates": 3})
    row = {"adapter": 1}
    prompt = dataclasses.replace(
        plain,
        tokens=np.array([5, 17, 30, 44] * 2, np.int64),
        rows=rows(row | {"length": 4}, readers=BOTH),
        blocks=np.array([0, 1], np.int32),
        choices=np.concatenate([choice_step(**kind).choices for kind in kinds]),
    )
    copies = [{"reader": one, "source": int(one), "target": 2 + int(one)} for one in BOTH]
    after = dataclasses.replace(
        plain,
        tokens=np.array([60, 60], np.int64),
        rows=rows(row | {"start": 4, "length": 1}, readers=BOTH),
        blocks=np.array([2, 3], np.int32),
        copies=table(COPY, copies),
    )
    return [prompt, after]


def load(execute: Callable[[Step], StepResult], change: AdapterChange) -> AdapterReport:
    """Has an adapter loaded, by as many steps as it takes."""
    give_up_s = time.monotonic() + 20
    while not (reports := unpack_reports(execute(empty_step(change)).loads)):
        assert time.monotonic() < give_up_s
    return reports[0]


def test_the_ensemble_decodes_as_the_fused_execution_does(
    serving: SimpleNamespace, start: Start, settings: Settings, served: Path
) -> None:
    pb_utils.serve("cold_step", Ensemble({name: start(name) for name in ENSEMBLE}).answer)
    fused = load_fused(settings, load_store(settings))
    path = str(served / "folder/two")
    change = AdapterChange(1, "two", path, find_adapter_stamp("two", path))
    for execute in (serving.steps.execute_step, fused.execute):
        assert load(execute, change) == AdapterReport(1, "two", change.stamp)
    for step in steps_of_two():
        of_ensemble, of_fused = serving.steps.execute_step(step), fused.execute(step)
        assert len(of_fused.picks) == len(step.choices)
        assert len(of_fused.candidates) == step.choices["candidates"].sum()
        for name in DECIDED:
            found, expected = getattr(of_ensemble, name), getattr(of_fused, name)
            assert found.dtype == expected.dtype
            for column in expected.dtype.names:
                np.testing.assert_allclose(found[column], expected[column], rtol=1e-4)


def test_a_model_that_fails_fails_the_step(serving: SimpleNamespace, start: Start) -> None:
    pb_utils.serve("cold_step", Ensemble({name: start(name) for name in ENSEMBLE}).answer)
    step = choice_step()
    too_many = dataclasses.replace(step, tokens=np.array([5, VOCAB], np.int64))
    with pytest.raises(StepError, match=r"internal error \[internal\]"):
        serving.steps.execute_step(too_many)


class TestCold:
    @pytest.fixture(params=["fused", "ensemble"])
    def cold(
        self,
        request: pytest.FixtureRequest,
        serving: SimpleNamespace,
        start: Start,
        tmp_path: Path,
    ) -> Iterator[Any]:
        if request.param == "ensemble":
            pb_utils.serve("cold_step", Ensemble({name: start(name) for name in ENSEMBLE}).answer)
        os.mkfifo(tmp_path / "lifeline")
        end = os.open(tmp_path / "lifeline", os.O_RDWR)  # as cold-server has it
        model = start("cold", request.param)
        yield model
        os.close(end)
        model.finalize()
        assert not (tmp_path / "lifeline").exists()

    def test_answers_requests_until_it_is_stopped(self, cold: Any, tmp_path: Path) -> None:
        shared = {"text_input": text("ab"), "return_finish_reason": np.array([[True]])}
        greedy = shared | {"max_tokens": np.array([[3]], np.int32), "decoding": text("cold")}
        of_two = greedy | {"lora_name": text("two"), "stream": np.array([[True]])}
        wrong = shared | {"decoding": text("beams")}
        requests = [
            pb_utils.InferenceRequest(
                inputs=[pb_utils.Tensor(name, array) for name, array in inputs.items()]
            )
            for inputs in (greedy, of_two, wrong)
        ]
        cold.execute(requests)
        assert all(request.sender.ended.wait(60) for request in requests)
        (whole,), pieces, (refused,) = (
            [response for response, _ in request.sender.sent] for request in requests
        )
        assert [flags for _, flags in requests[1].sender.sent] == [0] * (len(pieces) - 1) + [1]
        assert len(outputs(whole)["token_ids"]) == 3
        assert outputs(whole)["finish_reason"] == [b"length"]
        assert sum(len(outputs(piece)["token_ids"]) for piece in pieces) == 3
        error = refused.error()
        assert error
        assert error.message().startswith("decoding: ")
        assert pb_utils.published["cold_restarts"] == {(): [3]}
        assert read_pulse(tmp_path / "pulse").accepted == 1


def text(value: str) -> Any:
    return np.array([[value]], object)


def outputs(response: pb_utils.InferenceResponse) -> dict[str, list[Any]]:
    """Without the batch dimension."""
    return {tensor.name(): tensor.as_numpy()[0].tolist() for tensor in response.output_tensors()}
