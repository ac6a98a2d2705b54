#!/usr/bin/env bash
# Makes the environment of the check in a folder: Huawei's compilers from PyPI in a venv of its own
# (triton-ascend and triton both install themselves as `triton`), LLVM's tools from Debian or the PATH.
set -euo pipefail
folder=${1:?usage: install.sh FOLDER}

stamp=$folder/.packages
if [[ ! $stamp -nt install/torch.txt || ! $stamp -nt install/ascend_check.txt ]]; then
    echo "== Ascend's open compilers into $folder (minutes)"
    install/venv.sh "$folder"
    install/say_size.sh "$folder"
    pip=("$folder/bin/python" -m pip --disable-pip-version-check --no-input)
    "${pip[@]}" install --progress-bar on -c constraints.txt -r install/torch.txt
    # Before triton-ascend comes: the two write the same files, and what is taken away later is the other's.
    "${pip[@]}" uninstall --yes triton triton-ascend
    "${pip[@]}" install --progress-bar on -c constraints.txt -r install/ascend_check.txt
    touch "$stamp"
fi

if command -v mlir-opt-19 >/dev/null && command -v llc-19 >/dev/null; then
    echo "== LLVM 19 is on the PATH"
elif [[ ! -x $folder/debian/usr/lib/llvm-19/bin/mlir-opt ]]; then
    echo "== LLVM 19 from Debian, unpacked into $folder/debian"
    install/debian.sh "$folder/debian" mlir-19-tools libmlir-19 llvm-19
fi
