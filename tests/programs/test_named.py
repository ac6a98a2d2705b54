"""Every program is started by a test: what the Makefile or a document names, and all others."""

from __future__ import annotations

import ast
import re

import pytest

from tests.documents import MAKEFILE, ROOT
from tests.programs.named import named, programs

_HERE = "tests/programs/test_"
_DEVICES = "tests/kernels/test_devices.py"
# Programs and the tests that start them.
_STARTED = {
    "benchmarks/adapter_gaps.py": f"{_HERE}benchmarks.py::test_adapter_gaps",
    "benchmarks/prefix_reuse.py": f"{_HERE}benchmarks.py::test_prefix_reuse",
    "benchmarks/bench_server.py": f"{_HERE}benchmarks.py::test_bench_server",
    "benchmarks/device/__main__.py": f"{_HERE}benchmarks.py::test_device",
    "benchmarks/in_process.py": f"{_HERE}benchmarks.py::test_bench_server",
    "benchmarks/kernels/bench_kernels.py": f"{_HERE}benchmarks.py::test_bench_kernels",
    "benchmarks/kernels/roofline.py": f"{_HERE}benchmarks.py::test_roofline",
    "benchmarks/naive.py": f"{_HERE}benchmarks.py::test_bench_server",
    "benchmarks/peers/vllm_arm.py": f"{_HERE}benchmarks.py::test_vllm_arm_without_vllm",
    "benchmarks/sampling.py": f"{_HERE}benchmarks.py::test_sampling",
    "benchmarks/step_time.py": f"{_HERE}benchmarks.py::test_step_time",
    "cold": "tests/unit/client/test_cli.py::test_compare_in_plain_text",
    "cold-eval": "tests/evaluation/test_commands.py::test_evaluate_and_tune",
    "cold-openai": "tests/server/test_openai.py::running",
    "cold-server": "tests/load/test_faults.py::test_a_short_run",
    "cold-tune": "tests/evaluation/test_commands.py::test_evaluate_and_tune",
    "deploy/grafana/picture.py": f"{_HERE}load_tests.py::test_dashboard_picture",
    "docs/write_protocol.py": "tests/unit/test_protocol.py::test_the_files_are_written",
    "examples/demo.py": f"{_HERE}examples.py::test_demo",
    "examples/prepare_model.py": f"{_HERE}examples.py::test_prepare_model",
    "examples/train_adapter.py": f"{_HERE}examples.py::test_train_adapter",
    "install/check.py": "tests/unit/test_install.py::test_the_check_says_what_it_does",
    "kernels/ascend/check.py": f"{_HERE}benchmarks.py::test_ascend_check_without_the_compilers",
    "load_tests/faults.py": "tests/load/test_faults.py::test_a_short_run",
    "load_tests/hanging_server.py": "tests/server/test_supervision.py::"
    "test_a_request_that_hangs_and_shared_memory_that_is_full",
    "load_tests/overload.py": f"{_HERE}load_tests.py::test_overload",
    "load_tests/run.py": f"{_HERE}load_tests.py::test_run",
    "study/amateurs.py": "tests/programs/test_study.py::test_amateurs_are_chosen_and_judged",
    "study/average.py": f"{_HERE}study.py::test_the_study",
    "study/likelihood.py": f"{_HERE}study.py::test_the_study",
    "study/prepare_base.py": f"{_HERE}study.py::test_the_study",
    "study/report.py": f"{_HERE}study.py::test_the_study",
    "study/run.py": f"{_HERE}study.py::test_the_study",
    "study/search.py": f"{_HERE}study.py::test_the_study",
    "study/tasks.py": f"{_HERE}study.py::test_the_study",
    "study/train.py": f"{_HERE}study.py::test_the_study",
    "tests/fuzz/__main__.py": f"{_HERE}load_tests.py::test_fuzz",
    "tests/fuzz/guided.py": "tests/fuzz/test_fuzz.py::test_guided_by_coverage",
    "tests/kernels/cross_compile.py": f"{_DEVICES}::test_every_kernel_compiles_for",
    "tests/kernels/on_fake_npu.py": f"{_DEVICES}::test_the_npu_path_with_a_made_up_npu",
}


def unstarted(wanted: set[str]) -> set[str]:
    """Programs that no test starts."""
    return wanted - _STARTED.keys()


def test_what_is_named_is_there() -> None:
    assert named() <= programs()


def test_every_program_is_started() -> None:
    assert unstarted(programs() | named()) == set()
    assert _STARTED.keys() <= programs()


@pytest.mark.parametrize(("program", "test"), _STARTED.items())
def test_the_test_that_starts_it_is_there(program: str, test: str) -> None:
    path, _, name = test.partition("::")
    functions = [
        node.name
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    assert name in functions


def test_scripts_are_run_by_ci() -> None:
    """What prepares a machine: no test can start it, but CI does."""
    ran = MAKEFILE + (ROOT / ".ci/run").read_text()
    scripts = [*ROOT.glob("deploy/*.sh"), *ROOT.glob("kernels/ascend/*.sh")]
    assert [s for s in scripts if not re.search(rf"\b{s.relative_to(ROOT)}\b", ran)] == []


def test_a_program_without_a_test_is_seen() -> None:
    assert unstarted({"benchmarks/new.py", "cold"}) == {"benchmarks/new.py"}
