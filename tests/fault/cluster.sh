#!/usr/bin/env bash
# tests/fault/cluster.sh - processes of a busy cluster are killed, stopped, restarted at random moments: no accepted request may be lost, no byte may differ.
#   cluster.sh PROGRAM [--runs N] [--seed N] [--keep] [KIND...]      without KIND: those of the suite; `all`: every one
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/cluster.bash"
shift
runs=2 seed=$RANDOM client_count=3 kinds=()
while [ $# -gt 0 ]; do
  case $1 in
    --runs) runs=$2 && shift 2 ;;
    --seed) seed=$2 && shift 2 ;;
    --keep) trap 'kill_all; echo "kept: $work"' EXIT && shift ;;
    *) kinds+=("$1") && shift ;;
  esac
done
plain_kinds="nothing rank-0-killed rank-1-killed rank-0-stopped rank-1-stopped diffusion-killed diffusion-stopped coordinator-killed coordinator-stopped rank-restarted diffusion-restarted client-gone slow-reader"
etcd_kinds="etcd-member-killed etcd-member-stopped etcd-all-killed etcd-all-stopped leader-killed leader-stopped leader-restarted rolling-restart"
if [ ${#kinds[@]} -eq 0 ]; then # those that wait for a lease cost ten seconds each: once
  once=" slow-reader coordinator-stopped leader-killed etcd-all-killed rolling-restart "
  # shellcheck disable=SC2206  # words
  kinds=(${plain_kinds/nothing /} etcd-member-killed etcd-all-killed leader-killed leader-restarted rolling-restart)
elif [ "${kinds[0]}" = all ]; then
  # shellcheck disable=SC2206  # words
  kinds=($plain_kinds $etcd_kinds)
fi
if ! command -v etcd >/dev/null; then
  echo "NOT checked: etcd is missing, so nothing is known of: $etcd_kinds"
  for i in "${!kinds[@]}"; do [[ " $etcd_kinds " != *" ${kinds[i]} "* ]] || unset "kinds[i]"; done
fi
RANDOM=$seed
echo "seed $seed"

# ---- two clusters: one with a coordinator alone, one with two of them and three nodes of etcd ----

start_workers() {
  local i
  for i in 0 1 2; do add_rank "ar-$i" "$@"; done
  for i in 0 1 2; do add_diffusion "diffusion-$i" "$@"; done
}

start_plain() {
  free_port
  server=127.0.0.1:$free_port
  free_port
  http=$free_port
  add_coordinator coordinator-a --listen "$server" --ar-tp 2 --http "127.0.0.1:$http" --stall-time 10 --result-mib 4
  start_workers --server "$server"
}

start_etcd() {
  local i nodes=() urls=() clients=() peers=() all a b
  for i in 0 1 2; do
    free_port
    clients+=("127.0.0.1:$free_port") urls+=("http://127.0.0.1:$free_port")
    free_port
    peers+=("127.0.0.1:$free_port") nodes+=("etcd-$i=http://127.0.0.1:$free_port")
  done
  all=$(IFS=,; echo "${nodes[*]}")
  etcd=$(IFS=,; echo "${urls[*]}")
  for i in 0 1 2; do add_etcd "etcd-$i" "${clients[i]}" "${peers[i]}" "$all"; done
  free_port
  a=127.0.0.1:$free_port
  free_port
  b=127.0.0.1:$free_port
  add_coordinator coordinator-a --listen "$a" --ar-tp 2 --etcd "$etcd" --result-mib 4
  add_coordinator coordinator-b --listen "$b" --ar-tp 2 --etcd "$etcd" --result-mib 4
  server=$a,$b
  start_workers --etcd "$etcd"
}

members() { if [ "$topology" = plain ]; then echo coordinator-a "${workers[@]}"; else echo coordinator-{a,b} "${workers[@]}"; fi; }
stop_topology() {
  if [ "$topology" != none ]; then
    epochs_grow "${workers[@]}"
    # shellcheck disable=SC2046  # words
    memory_is_back 16384 $(members)
  fi
  case $topology in
    plain) end_all coordinator-a ar-{0,1,2} diffusion-{0,1,2} ;;
    etcd)
      end_all coordinator-{a,b} ar-{0,1,2} diffusion-{0,1,2}
      for i in 0 1 2; do put_down etcd-$i TERM; done
      ;;
  esac
  topology=none
}

# ---- the faults; each leaves everybody alive and sets $at, the moment of the blow ----

blow() { at=$(now_ms); }
kill_and_revive() {
  blow
  put_down "$1" KILL
  pause 0 600
  revive "$1"
}
stop_for() { # NAME MILLISECONDS_FROM TO
  blow
  kill -STOP "${pid_of[$1]}"
  pause "$2" "$3"
  kill -CONT "${pid_of[$1]}"
}
restart() {
  blow
  put_down "$1" TERM
  same "$kind: $1 ends when asked" 0 "$ended"
  pause 0 300
  revive "$1"
}

strike_nothing() { blow; }
strike_rank-0-killed() { kill_and_revive "$(rank_name 0)"; }
strike_rank-1-killed() { kill_and_revive "$(rank_name 1)"; }
strike_rank-0-stopped() { stop_for "$(rank_name 0)" 300 3000; }
strike_rank-1-stopped() { stop_for "$(rank_name 1)" 300 3000; }
strike_diffusion-killed() { kill_and_revive diffusion-$((RANDOM % 3)); }
strike_diffusion-stopped() { stop_for diffusion-$((RANDOM % 3)) 300 3000; }
strike_coordinator-killed() { kill_and_revive coordinator-a; }
strike_coordinator-stopped() { stop_for coordinator-a 500 9000; } # clients come back after 5 s
strike_rank-restarted() { restart "$(rank_name $((RANDOM % 2)))"; }
strike_diffusion-restarted() { restart diffusion-$((RANDOM % 3)); }

strike_leader-killed() {
  local was
  was=$(leader)
  blow
  put_down "$was" KILL
  everybody_asks
  same "$kind: who leads" "$(other "$was")" "$(leader)"
  revive "$was"
}
strike_leader-stopped() { # longer than its lease lives
  local was
  was=$(leader)
  blow
  kill -STOP "${pid_of[$was]}"
  everybody_asks
  see_at= # whoever led answers nothing
  same "$kind: who leads" "$(other "$was")" "$(leader)"
  kill -CONT "${pid_of[$was]}"
}
strike_leader-restarted() {
  local was
  was=$(leader)
  restart "$was"
  everybody_asks
}
strike_etcd-member-killed() {
  local victim=etcd-$((RANDOM % 3))
  blow
  put_down $victim KILL
  everybody_asks
  revive $victim
}
strike_etcd-member-stopped() { stop_for etcd-$((RANDOM % 3)) 500 9000; }
strike_etcd-all-stopped() { # longer than any lease lives, every second time
  blow
  kill -STOP "${pid_of[etcd-0]}" "${pid_of[etcd-1]}" "${pid_of[etcd-2]}"
  pause 500 $((run % 2 ? 3000 : 14000))
  everybody_asks
  kill -CONT "${pid_of[etcd-0]}" "${pid_of[etcd-1]}" "${pid_of[etcd-2]}"
}
strike_etcd-all-killed() { # longer than any lease lives, every second time
  local i
  blow
  for i in 0 1 2; do put_down etcd-$i KILL; done
  pause 500 $((run % 2 ? 3000 : 14000))
  everybody_asks
  for i in 0 1 2; do revive etcd-$i; done
}
strike_rolling-restart() {
  local name first
  first=$(now_ms)
  for name in diffusion-{0,1,2} ar-{0,1,2} coordinator-{a,b} etcd-{0,1,2}; do
    wait_for_all "$kind, before $name"
    if [[ $name = etcd-* ]]; then
      put_down "$name" TERM
      revive "$name"
    else
      restart "$name"
    fi
  done
  at=$first
}

# Three who ask for a long work and are gone at once: the work is dropped, not done.
steps_total() { see && grep -E '"role": "diffusion"' seen | grep -oE '"steps_total": [0-9]+' | awk '{n += $2} END {print n}'; }
strike_client-gone() {
  local before after i gone=()
  before=$(steps_total)
  for i in 1 2 3; do
    setpriv --pdeathsig KILL "$diptych" generate --server "$server" --seed "$i" --steps 1000 -n 16 -o "gone-$i.png" x >/dev/null 2>&1 </dev/null &
    gone+=($!)
  done
  pause 50 700
  blow
  kill -KILL "${gone[@]}"
  wait "${gone[@]}" 2>/dev/null
  checks=$((checks + 2))
  wait_for nothing_is_left || complain "$kind, run $run: slots stay busy: $(cut -c 1-300 seen)"
  recovered=$(($(now_ms) - at))
  after=$(steps_total)
  [ $((after - before)) -lt 40000 ] || complain "$kind, run $run: $((after - before)) of 48000 steps were done for nobody"
}

# One who stops reading in the middle: its slots are freed as if it read on, stale previews make way for newer ones, the
# stream is cut when it has taken nothing for --stall-time, and what was made is still there to be fetched.
strike_slow-reader() {
  local id=slow-$seed-$run stalled dropped expected
  stalled=$(metric diptych_stream_stalled_total) dropped=$(metric diptych_previews_dropped_total)
  expected=$("$diptych" generate --json -o expected.png --seed 21 --steps 200 -n 8 slow | hashes)
  blow
  setpriv --pdeathsig KILL python3 "$here/reader.py" "$server" generate "$id" 2048 $patience >slow.out 2>&1 &
  checks=$((checks + 5))
  wait_for something_runs || complain "$kind, run $run: nothing runs: $(cat slow.out)"
  wait_for nothing_is_left || complain "$kind, run $run: slots stay busy for who does not read: $(cut -c 1-300 seen)"
  recovered=$(($(now_ms) - at))
  wait $!
  grep -qE '^(reset|ended)' slow.out || complain "$kind, run $run: not cut: $(cat slow.out)"
  [ "$(metric diptych_stream_stalled_total)" = $((stalled + 1)) ] || complain "$kind, run $run: the cut is not counted"
  [ "$(metric diptych_previews_dropped_total)" -gt "$dropped" ] || complain "$kind, run $run: every preview was kept"
  [ "$(metric 'diptych_requests_total[{][^}]*SLOW_READER[^}]*[}]')" -ge 1 ] || complain "$kind, run $run: SLOW_READER is not told"
  python3 "$here/reader.py" "$server" watch "$id" >watched.out 2>&1
  same "$kind, run $run: what is fetched later" "$expected" "$(sort -n watched.out | sed -n 's/^[0-9]* \([0-9a-f]*\)$/"image_sha256": "\1"/p' | tr '\n' ' ')"
  same "$kind, run $run: its end" 1 "$(grep -c completed watched.out)"
}
something_runs() { see && grep -qE '"(queued|running)": [1-9]' status.json; }

# ---- runs ----

# metric PATTERN: its value at the one coordinator, the sum over its labels
metric() {
  sleep 0.6 # a page is at most half a second old
  exec 3<>"/dev/tcp/127.0.0.1/$http" && printf 'GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' >&3 &&
    grep -E "^$1 " <&3 | awk '{n += $NF} END {print n + 0}'
}
replays() { # nothing where there are two coordinators
  [ "$topology" = plain ] || return 0
  metric 'diptych_replays_total[{][^}]*[}]'
}

has_clients() { case $kind in client-gone | slow-reader) return 0 ;; *) return 1 ;; esac; } # of its own
# note_lines, since_note FILES...: what has been written to logs after the note
declare -A lines_before=()
note_lines() { local file; for file in ./*.err; do lines_before[$file]=$(wc -l <"$file"); done; }
since_note() { local file; for file in "$@"; do tail -n "+$((${lines_before[$file]:-0} + 1))" "$file"; done; }

# What the next coordinator had of the one before: parts that workers held, and images that were painted twice.
show_taken_over() {
  local stage counts=
  checks=$((checks + 1))
  for stage in picture steps hinge tokens; do
    counts+="$(since_note ./coordinator-*.err | grep -oE "\"adopted_$stage\": [0-9]+" | awk '{n += $2} END {print n + 0}') $stage, "
  done
  echo "  taken over: ${counts%, }; painted: $(since_note ./diffusion-*.err | grep -cF '"msg": "painted"'), of those again: $(
    since_note ./diffusion-*.err | grep -F '"msg": "painted"' | grep -oE '"request_id": "[^"]*", "image": [0-9]+' | sort | uniq -d | wc -l)"
  # Once, the blow may meet nothing that a worker could hold.
  [ "$count" -lt 5 ] || grep -q '[1-9]' <<<"$counts" || complain "$kind: nothing was taken over"
}

run_kind() {
  local count=$runs before
  [[ "${once:-}" != *" $kind "* ]] || count=1
  if [[ " $plain_kinds " = *" $kind "* ]]; then use_topology plain; else use_topology etcd; fi
  # A coordinator that is killed between the end of a request and its log line takes that line along.
  case $kind in coordinator-killed | leader-killed) is_log_whole=no ;; *) is_log_whole=yes ;; esac
  : >troubles
  : >recovered.txt
  note_lines
  before=$(replays)
  has_clients || start_clients "$client_count"
  for run in $(seq "$count"); do
    wait_for_all "$kind, run $run"
    pause 0 700
    recovered=
    "strike_$kind" || complain "$kind, run $run: could not strike: $(cat status.err; cut -c 1-300 seen)"
    if ! has_clients; then
      everybody_asks
      recovered=$(recovery "$at")
    fi
    echo "$recovered" >>recovered.txt
  done
  wait_for_all "$kind, afterwards"
  asked=0 equal=0 refused=0 bad=0
  if ! has_clients; then
    stop_clients
    judge "$kind"
  fi
  checks=$((checks + 1))
  wait_for nothing_is_left || complain "$kind: slots stay busy: $(cut -c 1-300 seen)"
  # shellcheck disable=SC2046  # words
  remember_memory $(members)
  local replayed
  replayed=$(replays)
  [ "$kind" != coordinator-killed ] || before=0
  printf '| %-20s | %4d | %8d | %4d | %5d | %7d | %7s | %6.2f | %6.2f |\n' "$kind" "$count" "$asked" "$bad" "$equal" "$refused" \
    "${replayed:+$((replayed - before))}" "$(middle <recovered.txt | awk '{print $1 / 1000}')" "$(sort -n recovered.txt | tail -n 1 | awk '{print $1 / 1000}')"
  [ "$kind" != leader-killed ] || show_taken_over
}

expect_bytes
printf '| %-20s | %4s | %8s | %4s | %5s | %7s | %7s | %6s | %6s |\n' fault runs requests lost equal refused replays median max
for kind in "${kinds[@]}"; do run_kind; done
stop_topology
finish
