"""The NPU path with tensors that hold nothing; a program of its own, because a process has one NPU
backend. Prints what it found as JSON."""

from __future__ import annotations

import json

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from cold_kernels import load_ops
from cold_kernels.device import choose_device, tuning_of


def main() -> None:
    device = choose_device("auto")
    ops = load_ops("auto", device)
    with FakeTensorMode():
        row = torch.empty(5, device=device)
        logits = torch.empty(5, 99, device=device, dtype=torch.bfloat16)
        found = ops.contrast_select(
            logits,
            logits,
            mode=row.int(),
            alpha=row,
            beta=row,
            temperature=row,
            key=None,
        )
    print(
        json.dumps(
            {
                "device": str(device),
                "third": str(choose_device("npu", 2)),
                "ops": ops.name,
                "vector_cores": tuning_of(device).vector_cores,
                "outputs": [[str(t.device), str(t.dtype), *t.shape] for t in found],
            }
        )
    )


if __name__ == "__main__":
    main()
