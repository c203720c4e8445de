#!/bin/sh
# fetch_pgbouncer.sh FOLDER: Debian's pgbouncer and the libraries it may lack, unpacked into FOLDER. Needs no root,
# installs nothing on the machine and starts no service.
set -eu
common=$(cd "$(dirname "$0")" && pwd)/debian_packages.sh
mkdir -p "$1"
cd "$1"
if ! command -v apt-get >/dev/null; then
  echo "No apt-get here: install pgbouncer by other means; its tests cannot run without it." >&2
  exit 0
fi
. "$common"

fetch() {
  libraries=$(apt-cache $options depends pgbouncer | sed -nE 's/^ *Depends: (libc-?ares[^ ]*|libevent-[^ ]*)$/\1/p')
  test -n "$libraries" && apt-get $options download pgbouncer $libraries
}
unpack fetch
