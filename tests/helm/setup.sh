#!/usr/bin/env bash
# tests/helm/setup.sh - what the chart's tests need and Debian lacks: helm, kubeconform, and schemas of what the chart makes.
#
# All of it comes by Go's own client at pinned versions, once, into the build folder; later runs find it there.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tools/setup/go.sh
. tests/helm/definitions.bash
made=build/helm
mkdir -p "$made"
/usr/bin/python3 -c 'import yaml' || { echo "error: /usr/bin/python3 has no yaml"; echo "  fix: apt-get install python3-yaml"; exit 1; }

ln -sfn "$(go_helm)" "$made/helm"
ln -sfn "$(go_kubeconform)" "$made/kubeconform"

stamp=$(printf '%s\n' "$kubernetes_version" "${definitions[@]}" | cat - tests/helm/schemas.py | sha256sum | cut -c 1-16)
if [ ! -d "$made/schemas-$stamp" ]; then
  files=()
  for line in "${definitions[@]}"; do
    read -r -a words <<<"$line"
    folder=$(go_module "${words[0]}" "${words[1]}")
    for file in "${words[@]:2}"; do files+=("$folder/$file"); done
  done
  kubernetes=$(go_module k8s.io/kubernetes "$kubernetes_version")
  rm -rf "$made"/schemas-*
  /usr/bin/python3 tests/helm/schemas.py "$made/schemas.new" "$kubernetes/api/openapi-spec/swagger.json" "${files[@]}"
  mv "$made/schemas.new" "$made/schemas-$stamp"
fi
ln -sfn "schemas-$stamp" "$made/schemas"
echo "setup: helm $helm_version, kubeconform $kubeconform_version, schemas of Kubernetes $kubernetes_version"
