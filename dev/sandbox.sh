#!/usr/bin/env bash
# Make sure that the sandbox's tests have their stronger tier:  dev/sandbox.sh
# bubblewrap from Debian's package; the one on PyPI is something else. Called by make test.
set -euo pipefail
cd "$(dirname "$0")/.."
source dev/debian.sh

say() { printf 'sandbox: %s\n' "$*" >&2; }

if ! command -v bwrap >/dev/null && ! debian_install bubblewrap; then
  say "the sandbox's tests need bubblewrap; install it (Debian: apt-get install bubblewrap)"
  exit 1
fi
