#!/bin/sh
# fetch_chromium.sh FOLDER: makes FOLDER/chromium, which starts Debian's Chromium: the machine's own, or else one that is
# unpacked into FOLDER with the libraries that the machine lacks. Needs no root and installs nothing on the machine.
set -eu
common=$(cd "$(dirname "$0")/../servers" && pwd)/debian_packages.sh
mkdir -p "$1"
cd "$1"
if own=$(command -v chromium); then
  ln -sf "$own" chromium
  exit 0
fi
if ! command -v apt-get >/dev/null; then
  echo "No apt-get here: install chromium by other means, in the PATH; the tests of the viewer cannot run without it." >&2
  exit 0
fi

. "$common"

fetch() {
  packages=$(apt-get $options -s --no-install-recommends install chromium fonts-dejavu-core | sed -n 's/^Inst \([^ ]*\) .*/\1/p')
  test -n "$packages" && apt-get $options download $packages
}
unpack fetch

libraries=$(find "$PWD/usr/lib" "$PWD/lib" -name '*.so.*' -exec dirname {} + 2>/dev/null | sort -u | paste -sd:)
test -d etc/fonts && sed -i "s|<dir>/usr/share/fonts</dir>|<dir>$PWD/usr/share/fonts</dir>&|" etc/fonts/fonts.conf
cat >chromium <<END
#!/bin/sh
test -d "$PWD/etc/fonts" && export FONTCONFIG_PATH="$PWD/etc/fonts"
export LD_LIBRARY_PATH="$libraries"
exec "$PWD/usr/lib/chromium/chromium" "\$@"
END
chmod +x chromium
