"""Stands in for torch_npu on a machine without an NPU: has devices, computes nothing on them."""

import os
import types
from typing import Any

import torch

npu: Any = types.ModuleType("torch.npu")
extended: Any = torch.utils


def _visible() -> list[str]:
    return os.environ.get("ASCEND_RT_VISIBLE_DEVICES", "0,1").split(",")


npu.is_available = lambda: True
npu.device_count = lambda: len(_visible())
npu.current_device = lambda: 0
npu.get_device_name = lambda device=None: "Ascend910B3"
npu.is_initialized = lambda: True
npu._is_in_bad_fork = lambda: False
npu.manual_seed_all = lambda seed: None
npu.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]

extended.rename_privateuse1_backend("npu")
torch._register_device_module("npu", npu)
extended.generate_methods_for_privateuse1_backend(for_storage=False)
