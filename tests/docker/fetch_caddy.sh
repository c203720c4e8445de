#!/bin/sh
# fetch_caddy.sh FOLDER: Debian's caddy, unpacked into FOLDER. Needs no root, installs nothing and starts no service.
set -eu
common=$(cd "$(dirname "$0")/../servers" && pwd)/debian_packages.sh
mkdir -p "$1"
cd "$1"
if ! command -v apt-get >/dev/null; then
  echo "No apt-get here: the tests of docker/Caddyfile are skipped without caddy." >&2
  exit 0
fi
. "$common"

fetch() {
  apt-get $options download caddy
}
unpack fetch
