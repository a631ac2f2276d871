# tools/setup/go.sh - programs that tests need and Debian lacks, built from their Go modules at pinned versions.
#
# Sourced by tests. A program lies at build/tools/NAME-VERSION once it is built and is never built again; Go's own client
# fetches the sources and compares them with the public checksums. Nothing outside the build folder and Go's caches changes.

go_tools=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/build/tools
helm_version=4.3.2

# go_program NAME VERSION PACKAGE [FLAGS...]: prints where it lies, after building it where it does not yet
go_program() {
  local program=$go_tools/$1-$2 made status=0
  [ -x "$program" ] && { echo "$program"; return 0; }
  mkdir -p "$go_tools"
  made=$(mktemp -d -p "$go_tools")
  echo "building $1 $2, once" >&2
  env CGO_ENABLED=0 GOBIN="$made" GOFLAGS=-buildvcs=false \
    go install -p 2 -trimpath -ldflags '-s -w' "${@:4}" "$3@v$2" >&2 && mv "$made"/* "$program" || status=1
  rm -rf "$made"
  [ $status -eq 0 ] && echo "$program"
}

# go_helm: prints where helm lies
go_helm() { go_program helm "$helm_version" helm.sh/helm/v4/cmd/helm; }
