#!/usr/bin/env bash
# debian.sh FOLDER PACKAGE...: unpacks Debian's packages into a folder, without root and without installing them.
set -euo pipefail
folder=${1:?usage: debian.sh FOLDER PACKAGE...}
shift
command -v apt-get >/dev/null || { echo "setup: needs Debian's apt-get for $*" >&2; exit 1; }
mkdir -p "$folder"
cd "$folder"
if ! apt-get download "$@" 2>/dev/null; then
    # Lists of our own: the system's may be missing, and take root to fetch.
    mkdir -p apt/lists/partial apt/cache/archives/partial
    own=(-o "Dir::State::lists=$PWD/apt/lists" -o "Dir::Cache=$PWD/apt/cache")
    apt-get "${own[@]}" update
    apt-get "${own[@]}" download "$@" || { echo "setup: this system's packages lack one of: $*" >&2; exit 1; }
    rm -r apt
fi
for package in *.deb; do
    dpkg -x "$package" .
    rm "$package"
done
