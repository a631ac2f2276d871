# tests/helm/cluster/scenario.bash - what each values file of the chart goes through, and the table of how it went.
#
# Sourced by tests/helm/cluster.sh; expects a control plane that runs, and helm and kubectl in $PATH.

release=panel
kinds=deployments,statefulsets,leaderworkersets,pods,services,endpointslices,poddisruptionbudgets,networkpolicies,configmaps
kinds+=,secrets,serviceaccounts,persistentvolumeclaims,horizontalpodautoscalers,scaledobjects,servicemonitors
workloads=deployments,statefulsets,leaderworkersets
steps=(install objects dry-run scale drain upgrade rollback test-pod uninstall)
declare -A table # [NAME STEP]: ok or FAILED, and the seconds
failures=0

# cell NAME STEP FUNCTION: its words go to a log, of which the end is shown when it fails
cell() {
  local log=$logs/$1-$2.log began=$SECONDS verdict=ok
  "$3" >"$log" 2>&1 || verdict=FAILED
  table[$1 $2]="$verdict $((SECONDS - began))"
  printf '  %-10s %-7s %3d s\n' "$2" "$verdict" $((SECONDS - began))
  [ $verdict = ok ] && return 0
  failures=$((failures + 1))
  tail -n 15 "$log" | sed 's/^/      /'
  return 1
}

table_print() {
  local name step row
  printf '%-14s' values
  printf '%-12s' "${steps[@]}"
  echo
  for name in "${names[@]}"; do
    row=$(printf '%-14s' "$name")
    for step in "${steps[@]}"; do
      row+=$(printf '%-12s' "$(awk '{ print $1, $2 "s" }' <<<"${table[$name $step]:-- -}")")
    done
    echo "$row"
  done | sed 's/- -s/-   /g'
}

# ---- small questions ----
mine() { kubectl -n "$space" "$@"; }

# workload_names KINDS: kind/name of the release's, one a line
workload_names() { mine get "$1" -l "app.kubernetes.io/instance=$release" -o name; }

# everything_named: kind/name of all that can be listed, but what the cluster itself writes all the time
everything_named() {
  local inside outside
  inside=$(kubectl api-resources --verbs=list --namespaced -o name | grep -vE '^(events|leases)' | paste -sd ,)
  outside=$(kubectl api-resources --verbs=list --namespaced=false -o name | grep -vE '^(componentstatuses|events)' | paste -sd ,)
  { mine get "$inside" -o name; kubectl get "$outside" -o name; } 2>/dev/null | sort
}

# settled: every workload has what it asked for, in its current version
settled() {
  local one workloads_here
  workloads_here=$(workload_names $workloads) && [ -n "$workloads_here" ] || return 1
  for one in $workloads_here; do
    case $one in
      leaderworkerset*) mine wait "$one" --for=condition=Available --timeout=120s || return 1 ;;
      *) mine rollout status "$one" --timeout=120s || return 1 ;;
    esac
  done
  until_true 60 "every pod that is left is ready" no_pod_unready
}

no_pod_unready() {
  local pods
  pods=$(mine get pods -l "app.kubernetes.io/instance=$release" --no-headers -o \
    'custom-columns=ready:.status.conditions[?(@.type=="Ready")].status,owner:.metadata.ownerReferences[0].kind,gone:.metadata.deletionTimestamp') &&
    ! grep -v '^True .*<none>$' <<<"$pods" | grep -v ' Job ' | grep -q .
}

# templates: what the workloads would make their pods from and how many, in one canonical line each. How many there are of
# those that an autoscaler owns is its business, and it may think of it at any moment.
templates() {
  mine get $workloads -l "app.kubernetes.io/instance=$release" -o json | python3 -c '
import json, sys
scaled = sys.argv[1:]
for item in json.load(sys.stdin)["items"]:
    spec = item["spec"]
    template = spec.get("template") or spec["leaderWorkerTemplate"]
    name = item["metadata"]["name"]
    print(item["kind"], name, "-" if name in scaled else spec["replicas"], json.dumps(template, sort_keys=True))' \
    $(mine get hpa -o jsonpath='{.items[*].spec.scaleTargetRef.name}')
}

# certificates_signed: the part of cert-manager, which does not run here: a secret for each Certificate
certificates_signed() {
  local one
  for one in $(mine get certificates -o jsonpath='{.items[*].spec.secretName}'); do
    mine get secret "$one" >/dev/null 2>&1 || mine create secret generic "$one" \
      --from-file=tls.crt="$state/lws.crt" --from-file=tls.key="$state/lws.key" --from-file=ca.crt="$state/ca.crt" || return 1
    mine label secret "$one" signed-by=check --overwrite >/dev/null
  done
}

# ---- the steps; each is a function of $space, $values and $release ----
step_install() {
  helm install "$release" "$chart" -n "$space" -f "$values" --wait --timeout 180s && certificates_signed && settled
}

# Controllers write a little later than pods become ready, so that a rule gets some time to come true.
step_objects() {
  hooks_admitted >"$work/hooks.json" || return 1
  for _ in {1..20}; do
    mine get "$kinds" -o json | python3 "$here/cluster/live.py" "$work/hooks.json" >"$work/rules" && break
    sleep 1
  done
  cat "$work/rules"
  ! grep -q '^BROKEN' "$work/rules" && grep -q ' 0 broken' "$work/rules"
}

# Warnings count: a Deployment whose pods Pod Security would refuse is accepted with one.
step_dry_run() {
  helm upgrade "$release" "$chart" -n "$space" -f "$values" -f "$changed" --dry-run=server -o json >"$work/upgrade.json" &&
    python3 -c 'import json, sys; print(json.load(sys.stdin)["manifest"])' <"$work/upgrade.json" >"$work/upgrade.yaml" &&
    mine apply --server-side --force-conflicts --field-manager=helm --dry-run=server -f "$work/upgrade.yaml" 2>&1 | tee "$work/said" &&
    ! grep -qiE 'violate|error|warning' "$work/said"
}

# What an autoscaler holds is left to it; etcd for trials is one member and stays that.
step_scale() {
  local one count held scaled=0
  held=$(mine get horizontalpodautoscalers,scaledobjects -o jsonpath='{.items[*].spec.scaleTargetRef.name}')
  for one in $(workload_names $workloads); do
    case " $held " in *" ${one##*/} "*) echo "$one is an autoscaler's"; continue ;; esac
    [[ $one == *etcd* ]] && continue
    count=$(mine get "$one" -o jsonpath='{.spec.replicas}')
    mine scale "$one" --replicas=$((count + 1)) && settled && mine scale "$one" --replicas="$count" && settled || return 1
    scaled=$((scaled + 1))
  done
  echo "$scaled workloads scaled up and back"
  [ $scaled -gt 0 ]
}

step_drain() {
  local node bad=0 drained=0
  for node in $(mine get pods -l "app.kubernetes.io/instance=$release" -o jsonpath='{.items[*].spec.nodeName}' | tr ' ' '\n' | sort -u); do
    kubectl drain "$node" --ignore-daemonsets --delete-emptydir-data --timeout=60s && settled || bad=$((bad + 1))
    kubectl uncordon "$node"
    drained=$((drained + 1))
  done
  echo "$drained nodes drained, $bad held up"
  [ $drained -gt 0 ] && [ $bad -eq 0 ]
}

# availability_watch: name, wanted and available replicas of Deployments at each change, while it runs
availability_watch() {
  mine get deployments -l "app.kubernetes.io/instance=$release" -w \
    -o jsonpath='{.metadata.name}{" "}{.spec.replicas}{" "}{.status.availableReplicas}{"\n"}' >"$work/availability" 2>/dev/null &
  watch=$!
}

# What was scaled by hand has two owners of its replicas, and helm takes them back only when told to (--force-conflicts).
step_upgrade() {
  local watch status
  templates >"$work/templates-before"
  availability_watch
  helm upgrade "$release" "$chart" -n "$space" -f "$values" -f "$changed" --wait --timeout 180s --force-conflicts && settled
  status=$?
  kill "$watch" 2>/dev/null
  wait "$watch" 2>/dev/null
  [ $status -eq 0 ] || return 1
  templates >"$work/templates-after"
  if cmp -s "$work/templates-before" "$work/templates-after"; then echo "the other values changed no pod"; return 1; fi
  sort "$work/availability" | uniq -c
  awk '$2 >= 2 && $3 + 0 < 1 { print "not one replica was available:", $0; bad = 1 } END { exit bad }' "$work/availability"
}

step_rollback() {
  helm rollback "$release" 1 -n "$space" --wait --timeout 180s && settled && templates >"$work/templates-back" &&
    diff "$work/templates-before" "$work/templates-back" && helm history "$release" -n "$space" &&
    helm status "$release" -n "$space" | grep -i '^status: deployed'
}

step_test_pod() {
  hooks_admitted -o name 2>&1 | tee "$work/said"
  grep -q '^pod/' "$work/said" && ! grep -qiE 'violate|error|warning' "$work/said"
}

# hooks_admitted [-o FORMAT]: what helm test would make, as the server would take it
hooks_admitted() {
  helm get hooks "$release" -n "$space" >"$work/hooks.yaml" || return 1
  grep -q 'helm.sh/hook.*test' "$work/hooks.yaml" || { echo "the chart has no test"; return 1; }
  mine create --dry-run=server -f "$work/hooks.yaml" "${@:--ojson}"
}

step_uninstall() {
  mine delete secret -l signed-by=check # cert-manager keeps them, too; a new release would take them over
  helm uninstall "$release" -n "$space" --wait --timeout 120s && until_true 60 "nothing is left behind" nothing_left ||
    { diff "$work/named-before" "$work/named-after"; return 1; }
  ! kubectl get $workloads,all,networkpolicies,configmaps,secrets -A -l "app.kubernetes.io/instance=$release" -o name | grep .
}

nothing_left() {
  everything_named >"$work/named-after"
  cmp -s "$work/named-before" "$work/named-after"
}

# space_new NAME [LEVEL]: a namespace that enforces the restricted standard, or another
space_new() {
  local level=${2:-restricted}
  space=$1
  kubectl create namespace "$space" >/dev/null &&
    kubectl label namespace "$space" pod-security.kubernetes.io/{enforce,warn}="$level" >/dev/null &&
    until_true 30 "the namespace has its service account" mine get serviceaccount/default configmap/kube-root-ca.crt
}

# scenario NAME: all steps for ci/NAME-values.yaml; without an installed release the others mean nothing
scenario() {
  local name=$1 values=$chart/ci/$1-values.yaml changed=$here/cluster/changed-values.yaml space step level=restricted
  echo "$name:"
  [ -f "$values" ] || { echo "  no $values"; failures=$((failures + 1)); return; }
  grep -q 'hostPath:' "$values" && level=privileged && echo "  (a folder of the node is mounted, which the restricted standard refuses: not enforced here)"
  space_new "check-$name" $level && mine apply -f "$here/cluster/prerequisites.yaml" >/dev/null &&
    until_true 30 "the claims are bound" mine wait persistentvolumeclaim --all --for=jsonpath='{.status.phase}'=Bound --timeout=1s ||
    { failures=$((failures + 1)); return; }
  everything_named >"$work/named-before"
  if cell "$name" install step_install; then
    for step in "${steps[@]:1}"; do cell "$name" "$step" "step_${step//-/_}"; done
  else
    mine get pods,events >>"$logs/$name-install.log" 2>&1
    helm uninstall "$release" -n "$space" --wait --timeout 60s >/dev/null 2>&1
  fi
  kubectl delete namespace "$space" --timeout=60s >/dev/null
}

# ---- the harness itself ----
refused() { # PATTERN COMMAND...
  local said
  said=$("${@:2}" 2>&1) && { echo "  let pass: ${*:2}"; return 1; }
  grep -q "$1" <<<"$said" || { echo "  refused for another reason: $said"; return 1; }
}

# What the steps above look for is made to happen once, and each must be noticed.
harness_can_fail() {
  local space bad=0
  space_new check-teeth || return 1
  mine apply -f "$here/cluster/teeth.yaml" >/dev/null && mine rollout status deployment/alone --timeout=60s >/dev/null || return 1
  refused 'violates PodSecurity' mine run rude --image=rude --overrides \
    '{"spec": {"containers": [{"name": "rude", "image": "rude", "securityContext": {"privileged": true}}]}}' || bad=1
  refused 'disruption budget' kubectl drain "$(mine get pods -l app=alone -o jsonpath='{.items[0].spec.nodeName}')" --timeout=8s || bad=1
  kubectl uncordon -l type=kwok >/dev/null
  refused 'immutable' mine patch deployment alone --dry-run=server --type=json \
    -p '[{"op": "add", "path": "/spec/selector/matchLabels/other", "value": "x"}, {"op": "add", "path": "/spec/template/metadata/labels/other", "value": "x"}]' || bad=1
  mine get "$kinds" -o json | python3 "$here/cluster/live.py" >"$work/rules"
  local rule
  for rule in 'every service has pods' 'a budget has pods and lets' 'what a pod mounts' 'every probe knocks' 'no pod runs under the default' \
    'every network policy chooses'; do
    grep -q "^BROKEN $rule" "$work/rules" || { echo "  live.py did not notice: $rule"; bad=1; }
  done
  kubectl delete namespace "$space" --timeout=60s >/dev/null
  [ $bad -eq 0 ]
}
