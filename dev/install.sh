#!/usr/bin/env bash
# Make a virtual environment and install nanochat into it:  dev/install.sh VENV [EXTRAS]
#
# Read: find_python -> pass_on_pip_settings -> find_uv -> install.
# uv needs seconds where pip needs minutes, so uv is used when it is there or can be had quickly; it
# does not read pip's settings, so they are passed on. The first install's seconds go to VENV/.install_s.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1 extras=${2:-}
package=".${extras:+[$extras]}"

say() { printf 'install: %s\n' "$*" >&2; }

find_python() { # the first Python that is new enough, PYTHON=... before all others
  local candidate
  for candidate in ${PYTHON:-} python3.11 python3 python3.12 python3.13; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  say "no Python 3.11 or newer found; install one, or name it: make PYTHON=/path/to/python3.11 ..."
  return 1
}

pip_setting() { # pip_setting extra-index-url -> what pip would use, from its environment or its files
  { "$python" -m pip config list 2>/dev/null || true; } \
    | sed -n "s/^[^.]*\.$1='\(.*\)'$/\1/p" | tail -n 1 | sed 's/\\n/ /g'
}

pass_on_pip_settings() {
  local links index extra
  links=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$(pip_setting find-links)}}
  index=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$(pip_setting index-url)}}
  extra=${UV_EXTRA_INDEX_URL:-${PIP_EXTRA_INDEX_URL:-$(pip_setting extra-index-url)}}
  if [ -n "$links" ]; then export UV_FIND_LINKS=${links// /,}; fi
  if [ -n "$index" ]; then export UV_DEFAULT_INDEX=$index; fi
  if [ -n "$extra" ]; then
    export UV_EXTRA_INDEX_URL=$extra
    export UV_INDEX_STRATEGY=unsafe-best-match # as pip does: the best version of all the indexes
  fi
  if [ -n "${PIP_CERT:-}" ]; then export SSL_CERT_FILE=${SSL_CERT_FILE:-$PIP_CERT}; fi
}

find_uv() { # sets uv to a command that works, or to nothing
  uv=""
  if [ "${NANOCHAT_INSTALLER:-uv}" = pip ]; then return; fi
  if uv --version >/dev/null 2>&1; then uv=uv; return; fi
  make_venv
  if [ -x "$venv/bin/uv" ] || timeout 60 "$venv/bin/python" -m pip install -q uv 2>/dev/null; then
    uv=$venv/bin/uv
  fi
}

make_venv() { # keeps one whose Python still starts
  if "$venv/bin/python" -c '' 2>/dev/null; then return; fi
  if [ -n "$uv" ]; then
    "$uv" venv -q --clear --no-python-downloads -p "$python" "$venv"
  elif ! "$python" -m venv --clear "$venv"; then
    say "$python cannot make virtual environments; install its venv package (Debian: python3-venv)"
    return 1
  fi
}

install() {
  if [ -n "$uv" ]; then
    say "$package into $venv with uv"
    # With extras, the tests' packages: each of their workers would compile them at its start.
    if "$uv" pip install -q ${extras:+--compile-bytecode} -p "$venv/bin/python" \
      -c constraints.txt -e "$package"; then return; fi
    say "uv could not; trying pip"
  fi
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    "$venv/bin/python" -m ensurepip -q >/dev/null
  fi
  say "$package into $venv with pip (this can take some minutes)"
  "$venv/bin/python" -m pip install -q -c constraints.txt -e "$package"
}

start=$(date +%s.%N)
python=$(find_python)
pass_on_pip_settings
find_uv
make_venv
install
seconds=$("$venv/bin/python" -c "import time; print(round(time.time() - $start, 1))")
if [ ! -e "$venv/.install_s" ]; then echo "$seconds" >"$venv/.install_s"; fi
say "done in $seconds s"
