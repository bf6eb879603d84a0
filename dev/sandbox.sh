#!/usr/bin/env bash
# Make sure that the sandbox's tests have their stronger tier:  dev/sandbox.sh
# bubblewrap from Debian's package; the one on PyPI is something else. Called by make test.
set -euo pipefail

say() { printf 'sandbox: %s\n' "$*" >&2; }

install_bubblewrap() { # with Debian's package manager, its talk kept for the case of failure
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then return 1; fi
  say "installing Debian's bubblewrap"
  export DEBIAN_FRONTEND=noninteractive
  local talk
  if talk=$(apt-get -qq update 2>&1 \
    && apt-get -qq install -y --no-install-recommends bubblewrap 2>&1 </dev/null); then return; fi
  printf '%s\n' "$talk" | tail -n 5 >&2
  return 1
}

if ! command -v bwrap >/dev/null && ! install_bubblewrap; then
  say "the sandbox's tests need bubblewrap; install it (Debian: apt-get install bubblewrap)"
  exit 1
fi
