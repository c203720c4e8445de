# To be sourced, within the folder that packages shall be unpacked into: no root, nothing installed on the machine.
options="-qq -o APT::Sandbox::User=root"

# unpack FETCH: runs this function, which downloads packages by `apt-get $options`, and unpacks them.
unpack() {
  if ! "$1" 2>/dev/null; then # this machine's package lists are missing or old: take new ones, for this folder only
    mkdir -p apt/lists/partial apt/cache
    options="$options -o Dir::State::Lists=$PWD/apt/lists -o Dir::Cache=$PWD/apt/cache"
    apt-get $options update
    "$1"
  fi
  for package in ./*.deb; do dpkg -x "$package" .; done
  rm -rf apt ./*.deb
}
