# tests/helm/cluster/programs.bash - what a cluster is made of, built from Go modules at pinned versions into build/tools.
#
# Sourced by tests/helm/cluster.sh. Kubernetes and kwok share the go.mod of this folder, so that what they have in common
# is compiled once; LeaderWorkerSet (lws/go.mod) and helm keep the libraries of their own releases. A second run builds
# nothing. The versions are those of the go.mod files, which decide; here and in tools/setup/go.sh they name built files.

kwok_version=0.8.0
lws_version=0.7.0

# programs_link_flags: what a release of Kubernetes says of itself; without it, it calls itself v0.0.0
programs_link_flags() {
  local package
  printf -- '-s -w'
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    printf -- ' -X %s.gitVersion=v%s -X %s.gitMajor=1 -X %s.gitMinor=%s' "$package" "$kubernetes_version" "$package" "$package" \
      "$(cut -d . -f 2 <<<"$kubernetes_version")"
  done
}

# build_in MODULE-FOLDER NAME VERSION PACKAGE: with the versions that the folder's go.mod pins
build_in() {
  local program=$go_tools/$2-$3
  [ -x "$program" ] || {
    go_here || return 1
    echo "building $2 $3, once" >&2
    mkdir -p "$go_tools"
    (cd "$1" && CGO_ENABLED=0 GOTOOLCHAIN=local go build -mod=readonly -p 2 -trimpath -buildvcs=false -ldflags "$(programs_link_flags)" \
      -o "$program.made" "$4" >&2) && mv "$program.made" "$program" || return 1
  }
  echo "$program"
}

# programs_build FOLDER: under their plain names in a folder for $PATH
programs_build() {
  local name
  mkdir -p "$1"
  for name in kube-apiserver kube-controller-manager kube-scheduler kubectl; do
    ln -sfn "$(build_in "$here/cluster" $name $kubernetes_version k8s.io/kubernetes/cmd/$name)" "$1/$name" || return 1
  done
  ln -sfn "$(build_in "$here/cluster" kwok $kwok_version sigs.k8s.io/kwok/cmd/kwok)" "$1/kwok" &&
    ln -sfn "$(build_in "$here/cluster/lws" lws $lws_version sigs.k8s.io/lws/cmd)" "$1/lws" &&
    ln -sfn "$(go_helm)" "$1/helm" || return 1
  for name in "$1"/*; do [ -x "$name" ] || { echo "not built: $name" >&2; return 1; }; done
}

# definitions_copy FOLDER: without them the API server would not know those resources
definitions_copy() {
  local line words folder file
  mkdir -p "$1"
  for line in "${definitions[@]}"; do
    read -r -a words <<<"$line"
    folder=$(cd / && go_module "${words[0]}" "${words[1]}") || return 1
    for file in "${words[@]:2}"; do cp "$folder/$file" "$1/" || return 1; done
  done
}
