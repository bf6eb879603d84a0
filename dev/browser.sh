#!/usr/bin/env bash
# Make sure that a Chromium is here for the browser tests:  dev/browser.sh
# Debian's package is used (playwright drives it); its own downloads are not. Not called by make test-fast.
set -euo pipefail
for name in chromium chromium-browser google-chrome; do
  if command -v "$name" >/dev/null; then exit 0; fi
done
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  echo "browser: installing Debian's chromium" >&2
  export DEBIAN_FRONTEND=noninteractive
  log=$(mktemp)
  if apt-get -qq update >"$log" 2>&1 \
    && apt-get -qq install -y --no-install-recommends chromium >>"$log" 2>&1 </dev/null; then
    rm -f "$log"
    exit 0
  fi
  tail -n 5 "$log" >&2
  rm -f "$log"
fi
echo "browser: the browser tests need Chromium; install it (Debian: apt-get install chromium)" >&2
exit 1
