#!/usr/bin/env bash
# Installs the programs that tests/deploy runs, from Debian's packages. As root; does nothing where
# they are there already.
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin

missing=()
need() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null || missing+=("$2")
}
need nginx nginx-light
need haproxy haproxy
need prometheus prometheus
need promtool prometheus
need docker-compose docker-compose
need openssl openssl

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
