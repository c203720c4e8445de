#!/bin/sh
# fetch_pgbouncer.sh FOLDER: Debian's pgbouncer and the libraries it may lack, unpacked into FOLDER. Needs no root,
# installs nothing on the machine and starts no service.
set -eu
mkdir -p "$1"
cd "$1"
if ! command -v apt-get >/dev/null; then
  echo "No apt-get here: install pgbouncer by other means; its tests cannot run without it." >&2
  exit 0
fi

options="-qq -o APT::Sandbox::User=root"
fetch() {
  libraries=$(apt-cache $options depends pgbouncer | sed -nE 's/^ *Depends: (libc-?ares[^ ]*|libevent-[^ ]*)$/\1/p')
  test -n "$libraries" && apt-get $options download pgbouncer $libraries
}

if ! fetch 2>/dev/null; then # this machine's package lists are missing or old: take new ones, for this folder only
  mkdir -p apt/lists/partial apt/cache
  options="$options -o Dir::State::Lists=$PWD/apt/lists -o Dir::Cache=$PWD/apt/cache"
  apt-get $options update
  fetch
fi
for package in ./*.deb; do dpkg -x "$package" .; done
rm -rf apt ./*.deb
