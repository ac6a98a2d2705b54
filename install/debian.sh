#!/usr/bin/env bash
# debian.sh FOLDER PACKAGE...: unpacks Debian's packages, and what they need that is not installed, into a
# folder: without root, and without installing them.
set -euo pipefail
folder=${1:?usage: debian.sh FOLDER PACKAGE...}
shift

fail() {
    echo "setup: $*" >&2
    exit 1
}
command -v apt-get >/dev/null || fail "needs Debian's apt-get for $*"
mkdir -p "$folder"
cd "$folder"
# Lists and cache of our own: the system's may be missing, and take root to fetch.
mkdir -p apt/lists/partial apt/cache/archives/partial
trap 'rm -rf "$PWD/apt"' EXIT
apt=(apt-get -q -o "Dir::State::lists=$PWD/apt/lists" -o "Dir::Cache=$PWD/apt/cache" -o Debug::NoLocking=true
    -o "APT::Sandbox::User=$(id -un)")
"${apt[@]}" update || fail "apt-get could not fetch the lists of packages"
"${apt[@]}" install --download-only --no-install-recommends -y "$@" ||
    fail "this system's packages lack one of: $*"
for package in apt/cache/archives/*.deb; do
    dpkg -x "$package" .
done
