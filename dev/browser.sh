#!/usr/bin/env bash
# Make sure that the browser tests have what they need:  dev/browser.sh
# Chromium from Debian's package (playwright drives it; its own downloads are not used), and the
# accessibility checker of tests/browser/package.json. Called by make test, not by make test-fast.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'browser: %s\n' "$*" >&2; }

have_chromium() {
  local name
  for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then return; fi
  done
  return 1
}

install_chromium() { # with Debian's package manager, its talk kept for the case of failure
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then return 1; fi
  say "installing Debian's chromium"
  export DEBIAN_FRONTEND=noninteractive
  local talk
  if talk=$(apt-get -qq update 2>&1 \
    && apt-get -qq install -y --no-install-recommends chromium 2>&1 </dev/null); then return; fi
  printf '%s\n' "$talk" | tail -n 5 >&2
  return 1
}

if ! have_chromium && ! install_chromium; then
  say "the browser tests need Chromium; install it (Debian: apt-get install chromium)"
  exit 1
fi

packages=tests/browser
stamp=$packages/node_modules/.installed
if [ -e "$packages/package-lock.json" ] && [ ! "$stamp" -nt "$packages/package-lock.json" ]; then
  if ! command -v npm >/dev/null; then
    say "the accessibility tests need npm; install Node 20 or newer"
    exit 1
  fi
  npm ci --prefix "$packages" --silent --no-audit --no-fund </dev/null
  touch "$stamp"
fi
