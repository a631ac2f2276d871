# tests/helm/cluster/control_plane.bash - a control plane on loopback: etcd, API server, controllers, scheduler, kwok's nodes.
#
# Sourced by tests/helm/cluster.sh. Certificates are made here with openssl and die with the scratch folder; RBAC and Pod
# Security are on as everywhere. Nothing is ended but what was started here, by its process id, newest first.

# Debian's etcd cannot report the progress of a watch when asked, without which Kubernetes' clients wait and retry before
# they list the old way; so they are told to do that at once.
export KUBE_FEATURE_WatchListClient=false

started=() # process ids, oldest first
state=$work/state
logs=$root/build/kube-logs

# start NAME COMMAND...: in the background, its words in the logs
start() {
  local name=$1
  shift
  "$@" >"$logs/$name.log" 2>&1 </dev/null &
  started+=($!)
  disown $!
}

stop_all() {
  local index
  for ((index = ${#started[@]} - 1; index >= 0; index--)); do
    kill -TERM "${started[index]}" 2>/dev/null
    for _ in {1..100}; do kill -0 "${started[index]}" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "${started[index]}" 2>/dev/null
  done
  started=()
}

# until_true SECONDS WHAT COMMAND...
until_true() {
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $until ] || { echo "  not within the time: $what"; return 1; }
    sleep 0.5
  done
}

# free_ports COUNT: that many of the kernel's choice
free_ports() {
  python3 - "$1" <<'PY'
import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*[one.getsockname()[1] for one in held])
PY
}

# ---- certificates ----
certificate_authority() {
  mkdir -p "$state"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj '/CN=check of the chart' \
    -keyout "$state/ca.key" -out "$state/ca.crt" 2>/dev/null &&
    openssl genrsa -out "$state/accounts.key" 2048 2>/dev/null
}

# certificate NAME SUBJECT [ALTERNATIVE-NAMES]
certificate() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$2" -keyout "$state/$1.key" 2>/dev/null |
    openssl x509 -req -days 2 -CA "$state/ca.crt" -CAkey "$state/ca.key" -CAcreateserial -out "$state/$1.crt" \
      -extfile <(printf 'extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=%s\n' "${3:-DNS:$1}") 2>/dev/null
}

# access NAME SUBJECT: a certificate and the kubeconfig that uses it
access() {
  certificate "$1" "$2" || return 1
  cat >"$state/$1.kubeconfig" <<EOF
apiVersion: v1
kind: Config
current-context: here
clusters: [{name: here, cluster: {server: "https://127.0.0.1:$port_api", certificate-authority: $state/ca.crt}}]
users: [{name: $1, user: {client-certificate: $state/$1.crt, client-key: $state/$1.key}}]
contexts: [{name: here, context: {cluster: here, user: $1}}]
EOF
}

certificates() {
  certificate_authority &&
    certificate api-server /CN=kube-apiserver 'DNS:localhost,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:10.96.0.1' &&
    certificate lws '/CN=lws' 'DNS:localhost,IP:127.0.0.1' &&
    access admin '/O=system:masters/CN=admin' &&
    access kube-controller-manager '/CN=system:kube-controller-manager' &&
    access kube-scheduler '/CN=system:kube-scheduler' &&
    access kwok '/O=system:masters/CN=kwok' &&
    access lws-manager '/O=system:masters/CN=lws-manager'
}

# ---- processes ----
start_etcd() {
  start etcd etcd --name check --data-dir "$state/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls "http://127.0.0.1:$port_etcd" --advertise-client-urls "http://127.0.0.1:$port_etcd" \
    --listen-peer-urls "http://127.0.0.1:$port_peer" --initial-advertise-peer-urls "http://127.0.0.1:$port_peer" \
    --initial-cluster "check=http://127.0.0.1:$port_peer"
  until_true 30 "etcd answers" curl -sf "http://127.0.0.1:$port_etcd/health"
}

# The API server cannot advertise a loopback address as the service "kubernetes", which nothing here uses.
start_api_server() {
  start kube-apiserver kube-apiserver --etcd-servers "http://127.0.0.1:$port_etcd" \
    --bind-address 127.0.0.1 --advertise-address 127.0.0.1 --secure-port "$port_api" --endpoint-reconciler-type none \
    --tls-cert-file "$state/api-server.crt" --tls-private-key-file "$state/api-server.key" --client-ca-file "$state/ca.crt" \
    --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$state/accounts.key" \
    --service-account-signing-key-file "$state/accounts.key" --service-cluster-ip-range 10.96.0.0/16 \
    --authorization-mode RBAC --allow-privileged --feature-gates WatchList=false --enable-admission-plugins NodeRestriction,PodSecurity
  until_true 120 "the API server is ready" kubectl get --raw /readyz
}

start_controllers() {
  start kube-controller-manager kube-controller-manager --kubeconfig "$state/kube-controller-manager.kubeconfig" \
    --bind-address 127.0.0.1 --secure-port "$port_controllers" --leader-elect=false --use-service-account-credentials \
    --service-account-private-key-file "$state/accounts.key" --root-ca-file "$state/ca.crt"
  start kube-scheduler kube-scheduler --kubeconfig "$state/kube-scheduler.kubeconfig" \
    --bind-address 127.0.0.1 --secure-port "$port_scheduler" --leader-elect=false
  until_true 60 "the controllers make a service account" kubectl get serviceaccount default -n default
}

# kwok plays the kubelets. Its general stages take a pod through its init containers; the waits are cut from seconds to
# tenths, and a pod that is told to go is gone within a second, whatever its grace (nothing runs in it).
kwok_stages() {
  local stages
  stages=$(cd / && go_module sigs.k8s.io/kwok $kwok_version)/kustomize/stage || return 1
  local file
  for file in "$stages"/node/fast/node-initialize.yaml "$stages"/node/heartbeat-with-lease/node-heartbeat-with-lease.yaml \
    "$stages"/pod/general/pod-*.yaml; do
    echo ---
    case $file in
      */pod-delete.yaml) sed '/jitterDurationFrom:/,/expressionFrom:/d' "$file" ;;
      */pod-*) sed 's/durationMilliseconds: 1000$/durationMilliseconds: 100/; s/jitterDurationMilliseconds: 5000$/jitterDurationMilliseconds: 400/' "$file" ;;
      *) cat "$file" ;;
    esac
  done
}

start_kwok() {
  kwok_stages >"$state/kwok.yaml" || return 1
  start kwok kwok --kubeconfig "$state/kwok.kubeconfig" --config "$state/kwok.yaml" --manage-all-nodes \
    --node-lease-duration-seconds 40 --cidr 10.128.0.0/16 --node-ip 10.127.0.1
}

# Three zones, each with a plain node and one with eight GPUs. What a GPU node's device plugin would say is said here.
nodes() {
  local zone kind
  for zone in a b c; do
    for kind in plain gpu; do
      cat <<EOF
---
apiVersion: v1
kind: Node
metadata:
  name: $kind-$zone
  labels:
    type: kwok
    kubernetes.io/os: linux
    kubernetes.io/arch: amd64
    kubernetes.io/hostname: $kind-$zone
    topology.kubernetes.io/region: here
    topology.kubernetes.io/zone: here-$zone
EOF
      if [ $kind = gpu ]; then
        cat <<EOF
    nvidia.com/gpu.present: "true"
    nvidia.com/gpu.product: NVIDIA-H200
    topology.kubernetes.io/rack: rack-$zone
spec:
  taints: [{key: nvidia.com/gpu, value: present, effect: NoSchedule}]
status:
  capacity: &room {cpu: "96", memory: 1024Gi, ephemeral-storage: 2Ti, pods: "110", nvidia.com/gpu: "8"}
  allocatable: *room
EOF
      else
        cat <<EOF
status:
  capacity: &room {cpu: "64", memory: 256Gi, ephemeral-storage: 1Ti, pods: "110"}
  allocatable: *room
EOF
      fi
    done
  done
}

# Volumes that stand ready, since nothing here can provision one. Each is bound once.
volumes() {
  cat <<'EOF'
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: by-hand, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: kubernetes.io/no-provisioner
EOF
  local number
  for number in {1..24}; do
    cat <<EOF
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: by-hand-$number}
spec:
  storageClassName: by-hand
  capacity: {storage: 200Gi}
  accessModes: [ReadWriteOnce, ReadOnlyMany, ReadWriteMany]
  persistentVolumeReclaimPolicy: Retain
  nfs: {server: nobody.example, path: "/$number"}
EOF
  done
}

# LeaderWorkerSet's controller outside of the cluster: its webhooks are called by URL instead of by service.
lws_webhooks() {
  local authority
  authority=$(base64 -w 0 "$state/ca.crt")
  sed -E "/^    service:/,/^      path:/{
      /^    service:|^      name:|^      namespace:/d
      s|^      path: (.*)|    url: https://127.0.0.1:$port_webhook\\1\\n    caBundle: $authority|
    }" "$(cd / && go_module sigs.k8s.io/lws $lws_version)/config/webhook/manifests.yaml" |
    sed -E "s/^  name: (mpod|vpod)\.kb\.io/&\n  objectSelector: {matchExpressions: [{key: leaderworkerset.sigs.k8s.io\/name, operator: Exists}]}/"
}

start_lws() {
  mkdir -p "$state/webhook"
  cp "$state/lws.crt" "$state/webhook/tls.crt" && cp "$state/lws.key" "$state/webhook/tls.key" || return 1
  cat >"$state/lws.yaml" <<EOF
apiVersion: config.lws.x-k8s.io/v1alpha1
kind: Configuration
leaderElection: {leaderElect: false}
internalCertManagement: {enable: false}
webhook: {port: $port_webhook, host: 127.0.0.1, certDir: $state/webhook}
health: {healthProbeBindAddress: "127.0.0.1:$port_lws_health"}
metrics: {bindAddress: "0"}
EOF
  start lws env KUBECONFIG="$state/lws-manager.kubeconfig" lws --config "$state/lws.yaml"
  until_true 60 "LeaderWorkerSet's webhook listens" curl -sk "https://127.0.0.1:$port_webhook/" &&
    lws_webhooks | kubectl apply -f - >/dev/null
}

# The whole of it, step by step; what fails is in the logs.
control_plane_start() {
  mkdir -p "$logs" "$state"
  read -r port_etcd port_peer port_api port_controllers port_scheduler port_webhook port_lws_health <<<"$(free_ports 7)"
  certificates || { echo "no certificates"; return 1; }
  export KUBECONFIG=$state/admin.kubeconfig
  start_etcd && start_api_server && start_controllers && start_kwok &&
    nodes | kubectl apply -f - >/dev/null && volumes | kubectl apply -f - >/dev/null &&
    until_true 60 "all nodes are ready" kubectl wait --for=condition=Ready nodes --all --timeout=1s &&
    definitions_copy "$state/definitions" && kubectl apply --server-side -f "$state/definitions" >/dev/null &&
    kubectl wait --for=condition=Established crd --all --timeout=60s >/dev/null 2>&1 &&
    start_lws
}

# control_plane_memory: the sum of what the processes keep resident at their most, and each one's
control_plane_memory() {
  local pid peak
  for pid in "${started[@]}"; do
    peak=$(sed -n 's/^VmHWM:\s*\([0-9]*\) kB/\1/p' "/proc/$pid/status" 2>/dev/null)
    printf '%s %d MB\n' "$(cat "/proc/$pid/comm" 2>/dev/null)" $((${peak:-0} / 1024))
  done
}
