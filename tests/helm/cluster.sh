#!/usr/bin/env bash
# tests/helm/cluster.sh - the chart on a real API server: install, drain, scale, upgrade, roll back, uninstall. On demand.
#
#   tests/helm/cluster.sh [NAME...]     for ci/NAME-values.yaml; without a name, for all of them
#
# On a Debian machine with Go this needs nothing prepared: it builds kube-apiserver, kube-controller-manager,
# kube-scheduler, kubectl, kwok, LeaderWorkerSet's controller and helm from their Go modules at pinned versions (once,
# into build/tools: tests/helm/cluster/programs.bash) and takes etcd from Debian. Then, on loopback and with certificates
# made on the spot, it starts a control plane with RBAC and Pod Security, six nodes played by kwok (three zones, in each a
# plain node and one with eight GPUs), and the definitions of KEDA, cert-manager, Prometheus' operator and LeaderWorkerSet,
# the last with its controller. Each values file goes through this in a namespace that enforces the restricted standard:
#
#   install    helm install --wait: every object is accepted, every pod is scheduled and reaches Ready in simulation
#   objects    what must hold between live objects: live.py beside the other parts
#   dry run    what an upgrade with other values would send passes on the server; no immutable field is touched
#   scale      each pool up by one and back
#   drain      every node that has pods of the release is drained in turn, and no budget stands in the way
#   upgrade    helm upgrade --wait with other values; a workload of several replicas stays available meanwhile
#   rollback   helm rollback --wait: the pods' templates are those of the first revision again, to the byte
#   test pod   helm test draws an image in a real container, which kwok has none of: it is NOT run; that its pod would be
#              admitted is checked
#   uninstall  leaves no object behind, neither in the namespace nor outside it
#
# Before that the harness shows that it can fail: a privileged pod and a drain against a hopeless budget must be refused.
# One table at the end; exit status 0 only if every cell is ok. Logs in build/kube-logs. Time and memory: tests/helm/cluster/README.md.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
chart=${CHART:-$root/helm/diptych}
minutes=60

# The whole run has a limit; timeout sends TERM, on which the trap below ends what was started here.
if [ "${1:-}" != --within-limit ]; then
  exec timeout --foreground -k 60 "${minutes}m" "${BASH_SOURCE[0]}" --within-limit "$@"
fi
shift

. "$root/tools/setup/packages.sh"
. "$root/tools/setup/go.sh"
. "$here/definitions.bash"
packages_install etcd-server openssl curl python3 python3-pip || exit 1
go_here || exit 1
work=$(mktemp -d)
. "$here/cluster/programs.bash"
. "$here/cluster/control_plane.bash"
. "$here/cluster/scenario.bash"
trap 'stop_all; rm -rf "$work"' EXIT
trap 'exit 143' TERM INT

echo "Programs (built once, which takes long the first time):"
programs_build "$work/bin" || exit 1
PATH=$work/bin:$PATH
clock=$SECONDS
echo "Control plane: $(kube-apiserver --version), $(etcd --version | head -n 1), kwok $kwok_version, helm $helm_version"
control_plane_start || { echo "the control plane did not start: $logs"; exit 1; }
echo "  ready after $((SECONDS - clock)) s"

harness_can_fail || { echo "the harness let pass what it must refuse"; exit 1; }
names=("$@")
[ $# -gt 0 ] || mapfile -t names < <(find "$chart/ci" -name '*-values.yaml' -printf '%f\n' | sed 's/-values\.yaml$//' | sort)
[ ${#names[@]} -gt 0 ] || { echo "no values files in $chart/ci"; exit 1; }
for name in "${names[@]}"; do scenario "$name"; done

echo
table_print
echo
echo "Most memory each process held:"
control_plane_memory | sed 's/^/  /'
echo "NOT run: helm test (kwok starts no containers); its pod's admission is in the column \"test pod\"."
echo "${#table[@]} cells, $failures failed, $((SECONDS - clock)) s after the programs were built"
[ "$failures" -eq 0 ]
