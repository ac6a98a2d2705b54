#!/usr/bin/env bash
# say_size.sh FOLDER: before PyPI's torch is installed into that virtual environment, says how much of it a
# machine without an NVIDIA GPU does not need.
set -euo pipefail
folder=${1:?usage: say_size.sh FOLDER}

installed() { "$folder/bin/python" -c 'import sys, importlib.util as u; sys.exit(not u.find_spec("torch"))'; }
[[ -e /dev/nvidiactl || -n ${PIP_EXTRA_INDEX_URL:-}${PIP_INDEX_URL:-}${PIP_FIND_LINKS:-} ]] || installed || cat <<EOT
== PyPI's torch brings 2 GB of CUDA libraries (3 GB on the disk), which this machine without an NVIDIA GPU does
   not need. To leave them out, stop here (Ctrl-C) and give make PyTorch's own index for CPUs:
   PIP_EXTRA_INDEX_URL=ADDRESS, which pytorch.org/get-started/locally shows for the CPU.
EOT
