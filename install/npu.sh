#!/usr/bin/env bash
# Says in one line what `make npu-test` needs that is not here.
set -euo pipefail

fail() {
    echo "make npu-test: $*" >&2
    exit 1
}
compgen -G '/dev/davinci[0-9]*' >/dev/null || fail "needs an Ascend NPU and CANN 8.5, and there is no /dev/davinci0"
machine=$(uname -m)
[[ $machine == aarch64 || -n ${PIP_EXTRA_INDEX_URL:-} ]] ||
    fail "on $machine torch-npu wants a torch that only PyTorch's index has:" \
        "make npu-test PIP_EXTRA_INDEX_URL=ADDRESS (of the one for CPUs: pytorch.org/get-started/locally)"
