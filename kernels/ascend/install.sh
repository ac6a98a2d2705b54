#!/usr/bin/env bash
# Makes the environment of the check in a folder: Huawei's compilers from PyPI in a venv of its own
# (triton-ascend and triton both install themselves as `triton`), LLVM's tools from Debian or the PATH.
set -euo pipefail
folder=${1:?usage: install.sh FOLDER}
python=${PYTHON:-python3.11}

if [[ ! -e $folder/.packages ]]; then
    echo "== Ascend's open compilers into $folder (half a gigabyte)"
    [[ -x $folder/bin/python ]] || "$python" -m venv "$folder"
    pip=("$folder/bin/python" -m pip --disable-pip-version-check --no-input install --progress-bar on)
    "${pip[@]}" torch==2.13.0
    # pybind11: triton-ascend needs it and does not say so.
    "${pip[@]}" triton-ascend==3.2.0 pybind11 ascendnpu-ir==1.2.0 numpy==1.26.4 pytest hypothesis
    touch "$folder/.packages"
fi

if command -v mlir-opt-19 >/dev/null && command -v llc-19 >/dev/null; then
    echo "== LLVM 19 is on the PATH"
elif [[ ! -x $folder/debian/usr/lib/llvm-19/bin/mlir-opt ]]; then
    command -v apt-get >/dev/null ||
        { echo "needs mlir-opt-19 and llc-19 on the PATH, or Debian's apt-get" >&2; exit 1; }
    echo "== LLVM 19 from Debian, unpacked into $folder/debian"
    mkdir -p "$folder/debian"
    cd "$folder/debian"
    packages=(mlir-19-tools libmlir-19 llvm-19 libllvm19 libz3-4)
    if ! apt-get download "${packages[@]}"; then
        # Lists of our own: the system's may be missing, and take root to fetch.
        mkdir -p apt/lists/partial apt/cache/archives/partial
        own=(-o "Dir::State::lists=$PWD/apt/lists" -o "Dir::Cache=$PWD/apt/cache")
        apt-get "${own[@]}" update
        apt-get "${own[@]}" download "${packages[@]}"
        rm -r apt
    fi
    for package in *.deb; do
        dpkg -x "$package" .
        rm "$package"
    done
fi
