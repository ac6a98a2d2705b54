#!/usr/bin/env bash
# venv.sh FOLDER: makes a virtual environment of Python 3.11 there, or checks the one that is there.
# PYTHON: the Python to make it with; without it, the first that is a 3.11. What is missing is said in one line.
set -euo pipefail
folder=${1:?usage: venv.sh FOLDER}

fail() {
    echo "setup: $*" >&2
    exit 1
}
version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }

if [[ ! -e $folder/bin/python ]]; then
    python=
    candidates=(python3.11 python3 python)
    [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        if [[ $(version "$candidate") == 3.11 ]]; then
            python=$candidate
            break
        fi
    done
    [[ $python ]] || fail "needs Python 3.11, and ${PYTHON:-neither python3.11 nor python3} is none;" \
        "install it (Debian 12: apt-get install python3 python3-venv python3-dev) or give PYTHON=/path/of/python3.11"
    if ! said=$("$python" -m venv "$folder" 2>&1); then
        rm -rf "$folder"
        echo "$said" >&2
        fail "$python could not make a virtual environment in $folder (Debian 12: apt-get install python3-venv)"
    fi
fi

python=$folder/bin/python
found=$(version "$python")
[[ $found == 3.11 ]] ||
    fail "the environment in $folder has Python ${found:-that does not run}, and 3.11 is needed: rm -r '$folder'"
"$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null 2>&1 ||
    fail "the environment in $folder has no pip: rm -r '$folder'"
# What the native kernels, and the launchers of triton-lang's, are compiled with.
command -v "${CXX:-g++}" >/dev/null ||
    fail "needs a C++ compiler, and there is no ${CXX:-g++} (Debian 12: apt-get install g++)"
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[[ -e $headers/Python.h ]] ||
    fail "needs the header files of Python, and there is no $headers/Python.h (Debian 12: apt-get install python3-dev)"
