#!/usr/bin/env bash
# Put promtool, which checks /metrics and alert rules, into the virtual environment:
#   dev/promtool.sh [VENV]
# Taken out of Debian's package prometheus without installing that: it would start a server.
# Called by make test, not by make test-fast.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}

say() { printf 'promtool: %s\n' "$*" >&2; }

if [ -x "$venv/bin/promtool" ] || command -v promtool >/dev/null; then exit; fi

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
  say "the tests need promtool; install Prometheus' tools and put promtool on the path"
  exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fetch() { (cd "$work" && apt-get -qq download prometheus 2>&1); }
say "taking promtool out of Debian's package prometheus"
if ! talk=$(fetch); then
  if [ "$(id -u)" -eq 0 ]; then apt-get -qq update >/dev/null 2>&1 || true; fi
  if ! talk=$(fetch); then
    printf '%s\n' "$talk" | tail -n 5 >&2
    say "the tests need promtool; install it (Debian: apt-get install prometheus)"
    exit 1
  fi
fi
dpkg-deb -x "$work"/prometheus_*.deb "$work/tree"
mkdir -p "$venv/bin"
cp "$work/tree/usr/bin/promtool" "$venv/bin/.promtool.$$"
mv "$venv/bin/.promtool.$$" "$venv/bin/promtool" # whole or not at all
