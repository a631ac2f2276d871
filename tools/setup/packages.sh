# tools/setup/packages.sh - what Debian or Ubuntu packages the project needs, and how to install the missing ones.
#
# Sourced by quickstart and check. Nothing is installed when everything is there.

packages_build="build-essential cmake ninja-build pkg-config libjansson-dev libssl-dev libcurl4-openssl-dev libmicrohttpd-dev libpcre2-dev libutf8proc-dev libpng-dev libprotobuf-c-dev protobuf-c-compiler protobuf-compiler libprotobuf-dev libgrpc-dev"
packages_image="libc-ares-dev zlib1g-dev ca-certificates python3 python3-pip" # besides those of the build: tools/image
packages_test="libcmocka-dev clang-14 clang-format-14 clang-tidy-14 libclang-rt-14-dev cppcheck universal-ctags file etcd-server etcd-client openssl prometheus python3-numpy python3-pil python3-yaml python3-pip python3-grpcio python3-protobuf protobuf-compiler-grpc"

# packages_install NAME...: installs those that are missing, saying which; needs root or sudo only then.
packages_install() {
  local missing=() name
  for name in "$@"; do
    dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'install ok installed' || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  command -v apt-get >/dev/null || {
    echo "error: these packages are missing and this is no Debian or Ubuntu: ${missing[*]}" >&2
    echo "  fix: install their equivalents, then run this again" >&2
    return 1
  }
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
      echo "error: installing ${missing[*]} needs root, and sudo is not here" >&2
      echo "  fix: run 'apt-get install ${missing[*]}' as root, then this again" >&2
      return 1
    }
    as_root=(sudo)
  fi
  echo "Installing: ${missing[*]}"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q >/dev/null
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
}

# packages_offer COMMAND NAME...: installs the packages when the command is missing; what needs it is left out without it.
packages_offer() {
  command -v "$1" >/dev/null && return 0
  packages_install "${@:2}" || echo "note: $1 is not here, so the tests that need it are left out"
}
