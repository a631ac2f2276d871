# tests/helm/definitions.bash - resources of others that the chart can make: "MODULE VERSION FILE...", as it is tested against.
# shellcheck disable=SC2034  # read by setup.sh and cluster.sh
definitions=(
  "github.com/cert-manager/cert-manager 1.21.2 deploy/crds/cert-manager.io_certificates.yaml deploy/crds/cert-manager.io_issuers.yaml"
  "github.com/kedacore/keda/v2 2.21.0 config/crd/bases/keda.sh_scaledobjects.yaml config/crd/bases/keda.sh_triggerauthentications.yaml"
  "sigs.k8s.io/lws 0.7.0 config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml"
  "github.com/prometheus-operator/prometheus-operator 0.85.0 example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"
)
