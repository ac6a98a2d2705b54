"""Devices that are not here: GPUs that the kernels are compiled for, and an NPU that is made up."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cold_kernels.device import DeviceError, choose_device

HERE = Path(__file__).parent


def run(program: str, *arguments: str, **environment: str) -> str:
    """Runs a program of this folder, without the interpreter that the tests run kernels in."""
    inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, HERE / program, *arguments],
        capture_output=True,
        text=True,
        env=inherited | environment,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.mark.skipif(
    platform.machine() != "x86_64", reason="triton-lang's compilers come for x86_64 alone"
)
@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
def test_every_kernel_compiles_for(target: str, tmp_path: Path) -> None:
    out = run(
        "cross_compile.py", target, TRITON_CACHE_DIR=str(tmp_path), TRITON_DEFAULT_FP_FUSION="0"
    )
    # 6 kernels in 13 variants, for 3 dtypes.
    assert out.split() == ["39", "kernels"]


@pytest.mark.slow
@pytest.mark.parametrize(("visible", "count"), [("0,1", 2), ("3", 1)])
def test_the_npu_path_with_a_made_up_npu(visible: str, count: int) -> None:
    fake = str(HERE / "fake_npu")
    out = run("on_fake_npu.py", PYTHONPATH=fake, ASCEND_RT_VISIBLE_DEVICES=visible)
    found = json.loads(out)
    assert found["device"] == "npu:0"
    assert found["third"] == f"npu:{2 % count}"
    assert found["ops"] == "triton_lang"
    assert found["vector_cores"] == 40
    assert all(device == "npu:0" and rows == 5 for device, _, rows in found["outputs"])


def test_a_device_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(DeviceError, match="no cuda device"):
        choose_device("cuda")
