# Sourced by browser.sh and sandbox.sh: install a package of Debian's, its talk kept for the failure.
# debian_install PACKAGE; false where there is no apt-get or we may not use it.

debian_install() {
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then return 1; fi
  say "installing Debian's $1"
  export DEBIAN_FRONTEND=noninteractive
  local talk
  if talk=$(apt-get -qq update 2>&1 \
    && apt-get -qq install -y --no-install-recommends "$1" 2>&1 </dev/null); then return; fi
  printf '%s\n' "$talk" | tail -n 5 >&2
  return 1
}
