"""Benchmarks in their quickest form. What they measure then means nothing; that they run does."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks.device import __main__ as device
from tests.programs.conftest import Start


@pytest.mark.server
def test_bench_server(start: Start, small_model: Path, tmp_path: Path) -> None:
    """With its arms, in_process.py and naive.py; vLLM's need vLLM."""
    shared = ("--base-model", small_model, "--cache", tmp_path, "--out", tmp_path)
    printed = start(
        *("benchmarks/bench_server.py", *shared),
        *("--quick", "--threads", 2, "--dtype", "float32"),
    )
    found = json.loads((tmp_path / "bench_server_float32.json").read_text())
    assert {row["arm"] for row in found["rows"]} >= {"server_cold", "in_process_cold"}
    # In float32 all of them, whatever the machine.
    assert set(found["rounds_with_equal_tokens"].values()) == {1}, printed
    assert (tmp_path / "bench_server_float32.png").stat().st_size > 10_000
    refused = start("benchmarks/bench_server.py", *shared, "--peers", tmp_path, code=2)
    assert "no bin/python in" in refused and "make bench" in refused


def test_step_time(start: Start, small_model: Path, tmp_path: Path) -> None:
    shared = ("--base-model", small_model, "--cache", tmp_path, "--out", tmp_path)
    start("benchmarks/step_time.py", *shared, "--quick")
    found = json.loads((tmp_path / "step_time.json").read_text())
    assert found["streams"].keys() == {"1", "2"}
    assert all(ms >= 0 for ms in found["streams"]["1"].values())
    assert (tmp_path / "step_time.png").stat().st_size > 10_000


@pytest.mark.server
def test_adapter_gaps(start: Start, small_model: Path, tmp_path: Path) -> None:
    quick = ("--streams", 2, "--adapters", 2, "--rank", 4, "--rounds", 1)
    shared = ("--base-model", small_model, "--out", tmp_path)
    start("benchmarks/adapter_gaps.py", *shared, *quick, "--dtype", "float32")
    found = json.loads((tmp_path / "adapter_gaps.json").read_text())
    assert found["rounds"][0]["with_ms"] > 0 and found["ratio"] > 0


def test_prefix_reuse(start: Start, small_model: Path, tmp_path: Path) -> None:
    quick = ("--context", 512, "--system", 64, "--requests", 6, "--turns", 3, "--rounds", 1)
    shared = ("--base-model", small_model, "--out", tmp_path)
    start("benchmarks/prefix_reuse.py", *shared, *quick, "--dtype", "float32")
    found = json.loads((tmp_path / "prefix_reuse.json").read_text())
    assert found["ratios"].keys() == {"shared", "chat", "together", "apart"}
    assert all(ratio > 0 for ratio in found["ratios"].values())


def test_sampling(start: Start, small_model: Path, tmp_path: Path) -> None:
    quick = ("--streams", 2, "--long", 100, "--tokens", 4, "--rounds", 1)
    shared = ("--base-model", small_model, "--out", tmp_path)
    start("benchmarks/sampling.py", *shared, *quick, "--dtype", "float32")
    found = json.loads((tmp_path / "sampling.json").read_text())
    assert len(found["ratios"]) == 8
    assert all(ratio > 0 for ratio in found["ratios"].values())


def test_bench_kernels(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    start("benchmarks/kernels/bench_kernels.py", "--out", tmp_path, "--quick", "--rounds", 1)
    found = json.loads((tmp_path / "kernels_cpu.json").read_text())
    assert [row["case"].split()[0] for row in found["rows"]] == ["contrast_select", "lora_apply"]
    assert {"ours", "eager", "torch.compile"} <= found["rows"][0]["us"].keys()
    assert (tmp_path / "kernels_cpu.png").stat().st_size > 10_000


def test_device(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    out = tmp_path / "device.json"
    printed = start("-m", "benchmarks.device", "--out", out, "--quick", "--device", "cpu")
    parts = {name: part["found"] for name, part in json.loads(out.read_text())["parts"].items()}
    assert [name for name, found in parts.items() if "failed" in found] == [], printed
    assert parts["parity"]["tests"] == 4 and parts["parity"]["failures"] == {}
    assert [row["sequences"] for row in parts["steps"]["rows"]] == [1, 1, 2, 2]
    assert parts["launches"]["2"]["host"]
    assert all(row["call_us"] > 0 for row in parts["kernels"])
    assert parts["logits"]["llama"]["right"] and parts["logits"]["qwen3"]["right"]
    assert parts["engine"]["alone_and_together"]["same_answers"] == 2


def test_a_part_that_fails_or_takes_too_long_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    def hang(*_: object) -> None:
        time.sleep(60)

    parts = {"first": (5, fail), "second": (0.05, hang), "third": (5, lambda *_: "fine")}
    monkeypatch.setattr(device, "PARTS", parts)
    out = tmp_path / "device.json"
    arguments = ["--out", str(out), "--quick", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["benchmarks.device", *arguments])
    assert device.main() == 1
    found = {name: part["found"] for name, part in json.loads(out.read_text())["parts"].items()}
    assert "broken" in found["first"]["failed"][-1]
    assert "longer than 0.05 s" in found["second"]["failed"][-1]
    assert found["third"] == "fine"


def test_roofline(start: Start) -> None:
    """The tables of docs/kernels.md."""
    printed = start("benchmarks/kernels/roofline.py")
    document = (Path(__file__).parents[2] / "docs/kernels.md").read_text()
    for line in printed.splitlines():
        assert line in document


@pytest.mark.parametrize("arguments", [(), ("model", "float32")])
def test_vllm_arm_without_vllm(start: Start, arguments: tuple[str, ...]) -> None:
    printed = start("benchmarks/peers/vllm_arm.py", *arguments, code=1)
    assert printed == "error: no module 'vllm'; `make bench` installs vLLM into .venv-peers\n"


def test_ascend_check_without_the_compilers(start: Start, tmp_path: Path) -> None:
    """CI runs `make ascend-check` itself."""
    printed = start("kernels/ascend/check.py", "--report", tmp_path / "report.md", code=1)
    assert len(printed.splitlines()) == 1 and "make ascend-check" in printed
