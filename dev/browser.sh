#!/usr/bin/env bash
# Make sure that the browser tests have what they need:  dev/browser.sh
# Chromium from Debian's package (playwright drives it; its own downloads are not used), Firefox for
# the one test that plays the guide there, and the accessibility checker of
# tests/browser/package.json. Called by make test, not by make test-fast.
set -euo pipefail
cd "$(dirname "$0")/.."
source dev/debian.sh

say() { printf 'browser: %s\n' "$*" >&2; }

have() { # have NAME...: is one of these programs here?
  local name
  for name in "$@"; do
    if command -v "$name" >/dev/null; then return; fi
  done
  return 1
}

if ! have chromium chromium-browser google-chrome && ! debian_install chromium; then
  say "the browser tests need Chromium; install it (Debian: apt-get install chromium)"
  exit 1
fi
if ! have firefox-esr firefox && ! debian_install firefox-esr; then
  say "no Firefox (Debian: apt-get install firefox-esr): the guide is tested in Chromium alone"
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
