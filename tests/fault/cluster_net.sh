#!/usr/bin/env bash
# tests/fault/cluster_net.sh - each member a host of its own, in a network namespace: connections between pairs of roles are cut and heal while clients ask on.
#   cluster_net.sh PROGRAM [--runs N] [--seed N] [KIND...]      without KIND: those of the suite; `all`: every one
if [ -z "${FAULT_NET:-}" ]; then # in a network and mounts of our own: nothing outlives this script
  unshare --net --mount true 2>/dev/null && command -v ip >/dev/null ||
    { echo "NOT checked: this user may not make network namespaces, so no connection is cut"; exit 0; }
  FAULT_NET=1 exec unshare --net --mount --propagation private bash "${BASH_SOURCE[0]}" "$@"
fi
. "$(dirname "${BASH_SOURCE[0]}")/cluster.bash"
shift
runs=1 seed=$RANDOM kinds=()
while [ $# -gt 0 ]; do
  case $1 in
    --runs) runs=$2 && shift 2 ;;
    --seed) seed=$2 && shift 2 ;;
    *) kinds+=("$1") && shift ;;
  esac
done
plain_kinds="coordinator-diffusion coordinator-diffusion-one-way coordinator-rank coordinator-rank-one-way rank-rank rank-diffusion client-coordinator client-silent"
etcd_kinds="leader-etcd leader-all standby-etcd rank-etcd diffusion-etcd etcd-etcd leader-standby"
# shellcheck disable=SC2206  # words
case ${kinds[0]:-} in
  '') kinds=($plain_kinds leader-etcd) ;;
  all) kinds=($plain_kinds $etcd_kinds) ;;
esac
if ! command -v etcd >/dev/null; then
  echo "NOT checked: etcd is missing, so nothing is known of: $etcd_kinds"
  for i in "${!kinds[@]}"; do [[ " $etcd_kinds " != *" ${kinds[i]} "* ]] || unset "kinds[i]"; done
fi
RANDOM=$seed
echo "seed $seed"

# ---- hosts on one bridge; the clients are this script's own host ----

mkdir -p /run/netns
mount -t tmpfs tmpfs /run/netns
ip link set lo up
ip link add hub type bridge
ip addr add 10.77.0.1/24 dev hub
ip link set hub up
declare -A ip_of=([client]=10.77.0.1)
next_ip=2
add_host() {
  ip_of[$1]=10.77.0.$next_ip
  ip netns add "$1"
  ip link add "v$next_ip" type veth peer name eth0 netns "$1"
  ip link set "v$next_ip" master hub up
  ip -n "$1" addr add "${ip_of[$1]}/24" dev eth0
  ip -n "$1" link set eth0 up
  ip -n "$1" link set lo up
  where[$1]="nsenter --net=/run/netns/$1"
  next_ip=$((next_ip + 1))
}
at_host() { if [ "$1" = client ]; then ip "${@:2}"; else ip -n "$@"; fi; }
# one_way add|del FROM TO: what FROM sends does not arrive
one_way() { at_host "$2" route "$1" blackhole "${ip_of[$3]}/32"; }
cut_both() { one_way "$1" "$2" "$3" && one_way "$1" "$3" "$2"; }

for name in coordinator-{a,b} "${workers[@]}" etcd-{0,1,2} far; do add_host "$name"; done

# ---- two clusters: one with a coordinator alone, one with two of them and three nodes of etcd ----

start_workers() {
  local i
  for i in 0 1 2; do add_rank "ar-$i" "$@" --listen "${ip_of[ar-$i]}:0" --group-address "${ip_of[ar-$i]}" --host-id "host-$i" --insecure; done
  for i in 0 1 2; do add_diffusion "diffusion-$i" "$@" --listen "${ip_of[diffusion-$i]}:0" --insecure; done
}

start_plain() {
  members=(coordinator-a "${workers[@]}")
  server=${ip_of[coordinator-a]}:7000
  add_coordinator coordinator-a --listen "$server" --ar-tp 2 --insecure
  start_workers --server "$server"
}

start_etcd() {
  local i nodes=() urls=() name
  members=(coordinator-{a,b} "${workers[@]}")
  for i in 0 1 2; do nodes+=("etcd-$i=http://${ip_of[etcd-$i]}:2380") urls+=("http://${ip_of[etcd-$i]}:2379"); done
  for i in 0 1 2; do add_etcd "etcd-$i" "${ip_of[etcd-$i]}:2379" "${ip_of[etcd-$i]}:2380" "$(IFS=,; echo "${nodes[*]}")"; done
  urls=$(IFS=,; echo "${urls[*]}")
  for name in coordinator-{a,b}; do add_coordinator "$name" --listen "${ip_of[$name]}:7000" --ar-tp 2 --insecure --etcd "$urls"; done
  server=${ip_of[coordinator-a]}:7000,${ip_of[coordinator-b]}:7000
  start_workers --etcd "$urls"
}

stop_topology() {
  [ "$topology" = none ] || epochs_grow "${workers[@]}"
  [ "$topology" = none ] || end_all "${members[@]}"
  [ "$topology" = plain ] || for name in etcd-{0,1,2}; do [ -z "${pid_of[$name]:-}" ] || put_down "$name" TERM; done
}

# ---- the cuts; each heals, and sets $at, the moment of the blow ----

# sever WAYS FROM TO...: both ways, or one way
sever() {
  local to
  for to in "${@:3}"; do
    if [ "$1" = both ]; then cut_both add "$2" "$to"; else one_way add "$2" "$to"; fi || complain "$kind: cannot cut"
  done
}
heal() {
  local to
  for to in "${@:3}"; do
    if [ "$1" = both ]; then cut_both del "$2" "$to"; else one_way del "$2" "$to"; fi || complain "$kind: cannot heal"
  done
}
# cut_for WAYS FROM TO...: for some seconds, longer than a member may be silent
cut_for() {
  at=$(now_ms)
  sever "$@"
  pause 500 4000
  heal "$@"
}
# cut_long WAYS FROM TO...: every second time for longer than any lease lives, and clients are served meanwhile
cut_long() {
  at=$(now_ms)
  sever "$@"
  pause 500 $((run % 2 ? 14000 : 4000))
  everybody_asks
  heal "$@"
}
# depose NAME FROM...: the leader cannot reach etcd, which others can: the other one leads when its lease has run out.
depose() {
  local was=$1 blow
  blow=$(now_ms)
  sever both "$@"
  checks=$((checks + 1))
  wait_for leads "$(other "$was")" || complain "$kind, run $run: the other one does not lead"
  at=$(now_ms)
  everybody_asks
  at=$blow
  heal both "$@"
}
leads() { see_at= && [ "$(leader)" = "$1" ]; }

strike() {
  local drawn=diffusion-$((RANDOM % 3)) rank=$((RANDOM % 2)) node=$((RANDOM % 3))
  case $kind in
    coordinator-diffusion) cut_for both coordinator-a "$drawn" ;;
    coordinator-diffusion-one-way) cut_for one "$drawn" coordinator-a ;;
    coordinator-rank) cut_for both coordinator-a "$(rank_name $rank)" ;;
    coordinator-rank-one-way) cut_for one "$(rank_name $rank)" coordinator-a ;;
    rank-rank) cut_for both "$(rank_name 0)" "$(rank_name 1)" ;;
    rank-diffusion) cut_for both "$(rank_name 0)" "$drawn" ;;
    client-coordinator) cut_for both client coordinator-a ;;
    leader-etcd) depose "$(leader)" etcd-{0,1,2} ;;
    leader-all) depose "$(leader)" "${workers[@]}" etcd-{0,1,2} ;; # but for clients
    standby-etcd) cut_long both "$(other "$(leader)")" etcd-{0,1,2} ;;
    rank-etcd) cut_long both "$(rank_name $rank)" etcd-{0,1,2} ;;
    diffusion-etcd) cut_long both "$drawn" etcd-{0,1,2} ;;
    etcd-etcd) cut_long both etcd-$node etcd-$(((node + 1) % 3)) etcd-$(((node + 2) % 3)) ;;
    leader-standby) cut_long both coordinator-a coordinator-b ;;
  esac
}

# Twenty who ask for a long work; then their host is gone, without a word that could say so. What they asked for is dropped
# long before it would be done.
steps_total() { see && grep -E '"role": "diffusion"' seen | grep -oE '"steps_total": [0-9]+' | awk '{n += $2} END {print n}'; }
strike_silence() {
  local before after i gone=()
  before=$(steps_total)
  for i in $(seq 20); do
    setpriv --pdeathsig KILL ${where[far]} "$diptych" generate --server "$server" --seed "$i" --steps 1000 -n 16 -o "gone-$i.png" x >/dev/null 2>&1 </dev/null &
    gone+=($!)
  done
  pause 500 1500
  at=$(now_ms)
  cut_both add far coordinator-a || complain "$kind: cannot cut"
  kill -KILL "${gone[@]}"
  wait "${gone[@]}" 2>/dev/null
  checks=$((checks + 2))
  patience=$((2 * patience)) wait_for nothing_is_left || complain "$kind, run $run: slots stay busy: $(cut -c 1-300 seen)"
  recovered=$(($(now_ms) - at))
  after=$(steps_total)
  [ $((after - before)) -lt 300000 ] || complain "$kind, run $run: $((after - before)) of 320000 steps were done for nobody"
  echo "$kind, run $run: $((after - before)) of 320000 steps were done"
  cut_both del far coordinator-a || complain "$kind: cannot heal"
}

run_kind() {
  if [[ " $plain_kinds " = *" $kind "* ]]; then use_topology plain; else use_topology etcd; fi
  : >troubles
  : >recovered.txt
  [ $kind = client-silent ] || start_clients 3
  for run in $(seq "$runs"); do
    wait_for_all "$kind, run $run"
    pause 0 700
    if [ $kind = client-silent ]; then
      strike_silence
      echo "$recovered" >>recovered.txt
      continue
    fi
    strike
    everybody_asks # once it has healed, too
    recovery "$at" >>recovered.txt
  done
  wait_for_all "$kind, afterwards"
  asked=0 equal=0 refused=0 bad=0
  if [ $kind != client-silent ]; then
    stop_clients
    judge "$kind"
  fi
  checks=$((checks + 1))
  wait_for nothing_is_left || complain "$kind: slots stay busy: $(cut -c 1-300 seen)"
  printf '| %-30s | %4d | %8d | %4d | %5d | %7d | %6.2f | %6.2f |\n' "$kind" "$runs" "$asked" "$bad" "$equal" "$refused" \
    "$(middle <recovered.txt | awk '{print $1 / 1000}')" "$(sort -n recovered.txt | tail -n 1 | awk '{print $1 / 1000}')"
}

expect_bytes
printf '| %-30s | %4s | %8s | %4s | %5s | %7s | %6s | %6s |\n' "cut between" runs requests lost equal refused median max
for kind in "${kinds[@]}"; do run_kind; done
stop_topology
finish
