#!/bin/sh
# fetch_caddy.sh FOLDER: Debian's caddy, unpacked into FOLDER. Needs no root, installs nothing and starts no service.
set -eu
mkdir -p "$1"
cd "$1"
if ! command -v apt-get >/dev/null; then
  echo "No apt-get here: the tests of docker/Caddyfile are skipped without caddy." >&2
  exit 0
fi

options="-qq -o APT::Sandbox::User=root"
if ! apt-get $options download caddy 2>/dev/null; then # package lists are missing or old: take new ones, for this folder only
  mkdir -p apt/lists/partial apt/cache
  options="$options -o Dir::State::Lists=$PWD/apt/lists -o Dir::Cache=$PWD/apt/cache"
  apt-get $options update
  apt-get $options download caddy
fi
for package in ./*.deb; do dpkg -x "$package" .; done
rm -rf apt ./*.deb
