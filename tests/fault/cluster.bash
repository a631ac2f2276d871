# tests/fault/cluster.bash - what the fault scripts share: members as real processes, clients that never stop asking, a record of every request, and its checker.
. "$(dirname "${BASH_SOURCE[0]}")/../e2e/common.bash"
cd "$work" || exit 1
trap 'kill_all; rm -rf "$work"' EXIT
export DIPTYCH_MODEL=$tiny DIPTYCH_THREADS=1
cluster=fault-$$ # in every command line: nobody of ours can hide
declare -A words=() pid_of=() where=() # where: what runs it in a network of its own
declare -a ports=() clients=()

kill_all() {
  local pid
  touch enough
  for pid in "${clients[@]}" "${pid_of[@]}" $(pgrep -f -- "--cluster $cluster( |\$)"); do kill -KILL "$pid" 2>/dev/null; done
}

now_ms() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }
# pause FROM TO: milliseconds, drawn from the seed
pause() { sleep "$(printf '%d.%03d' $((draw = $1 + RANDOM % ($2 - $1 + 1), draw / 1000)) $((draw % 1000)))"; }

free_port() { # nobody of ours gets it twice
  local port
  while port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000)); do
    [ -z "${ports[port]:-}" ] && ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
  done
  ports[port]=1
  free_port=$port
}

# ---- members ----

# member NAME WORDS...: starts it; `revive NAME` starts it again. It dies with this script.
member() {
  words[$1]="${*:2}"
  revive "$1"
}
revive() {
  # shellcheck disable=SC2086  # words
  setpriv --pdeathsig KILL ${where[$1]:-} ${words[$1]} >>"$1.out" 2>>"$1.err" </dev/null &
  pid_of[$1]=$!
}
# put_down NAME SIGNAL: and waits for its end; leaves its status in $ended
put_down() {
  kill "-$2" "${pid_of[$1]}"
  wait "${pid_of[$1]}" 2>/dev/null
  ended=$?
  unset "pid_of[$1]"
}

add_coordinator() { member "$1" "$diptych" coordinator --cluster "$cluster" --name "$1" --grace 30 "${@:2}"; }
add_rank() { member "$1" "$diptych" worker --cluster "$cluster" --role ar --ar-rank --name "$1" --grace 30 "${@:2}"; }
add_diffusion() { member "$1" "$diptych" worker --cluster "$cluster" --role diffusion --name "$1" --grace 30 "${@:2}"; }
add_etcd() { # NAME CLIENT_ADDRESS PEER_ADDRESS ALL
  member "$1" etcd --name "$1" --data-dir "$work/data-$1" --listen-client-urls "http://$2" \
    --advertise-client-urls "http://$2" --listen-peer-urls "http://$3" \
    --initial-advertise-peer-urls "http://$3" --initial-cluster "$4" --logger zap
}

# see: what the cluster says of itself, one line for each member in the file `seen`. A coordinator that
# does not lead knows who does, and no workers.
see() {
  local leads= asked
  : >seen
  for asked in ${see_at:-${server//,/ }}; do # the first that knows who leads
    "$diptych" status --server "$asked" --json >status.json 2>status.err && leads=$(field leader <status.json)
    [ -z "$leads" ] || break
  done
  if [ "$leads" != "${see_at:-$server}" ]; then
    see_at=
    [ -n "$leads" ] && "$diptych" status --server "$leads" --json >status.json 2>status.err || return 1
    [ "$(field leader <status.json)" = "$leads" ] || return 1
    see_at=$leads
  fi
  grep -oE '\{"name": "[^}]*\}' status.json >seen
}
# of NAME FIELD: as last seen
of() { grep -F "{\"name\": \"$1\"," seen | field "$2"; }
# everybody_is_ready COUNT: the coordinator serves, and so many workers stand ready
everybody_is_ready() { see && [ "$(grep -c '"state": "ready"' seen)" -ge "$1" ]; }
# rank_name RANK: who is it, once the group stands
rank_name() { wait_for has_rank "$1" && find_rank "$1"; }
has_rank() { see && [ -n "$(find_rank "$1")" ]; }
find_rank() { grep -E "\"group\": \"g[^\"]*\", \"rank\": $1," seen | grep '"state": "ready"' | field name; }
# nothing_is_left: no slot busy, nothing queued, nothing running
nothing_is_left() {
  see && ! grep -qE '"slots_busy": [1-9]' seen && ! grep -qE '"(queued|running)": [1-9]' status.json
}

workers=(ar-{0,1,2} diffusion-{0,1,2}) # of three ranks two make the group, the third is spare
all_are_here() { everybody_is_ready 5 && [ "$(wc -l <seen)" -eq 6 ]; }
wait_for_all() {
  checks=$((checks + 1))
  wait_for all_are_here || complain "$1: not everybody is ready: $(cut -c 1-300 seen; cat status.err; tail -n 3 ./*.err)"
}
# The member that leads now.
leader() {
  local address name
  wait_for see
  address=$(field leader <status.json)
  for name in coordinator-a coordinator-b; do [[ " ${words[$name]:-} " != *" --listen $address "* ]] || echo $name; done
}
other() { [ "$1" = coordinator-a ] && echo coordinator-b || echo coordinator-a; }

# use_topology NAME: puts down what runs and has start_NAME make another cluster, unless it is that
topology=none
use_topology() {
  [ "$topology" != "$1" ] || return 0
  stop_topology
  rm -f ./*.out ./*.err
  see_at=
  topology=$1
  "start_$1"
  wait_for_all "start of the $1 cluster"
  [ "$failures" -eq 0 ] || { finish; exit 1; } # every fault would fail for the same reason
}

# ---- clients ----

# Short AR work and long diffusion, and the other way round: a fault meets both.
cases=("--seed 11 --steps 250 -n 4 dog" "--seed 12 --steps 3 -n 16 cat" "--seed 13 --steps 120 -n 6 --sampler dpm++ bird" "--seed 14 -n 8 --steps 60 fish")
declare -a expected=()
hashes() { grep -oE '"images": .*' | grep -oE '"image_sha256": "[0-9a-f]+"' | tr '\n' ' '; }
expect_bytes() {
  local i
  for i in "${!cases[@]}"; do
    # shellcheck disable=SC2086  # words
    expected[i]=$("$diptych" generate --json -o expected.png ${cases[i]} | hashes)
    [ -n "${expected[i]}" ] || { complain "the embedded program makes no picture of: ${cases[i]}"; exit 1; }
  done
}

# One line for each request: CLIENT CASE FROM TO EXIT VERDICT REQUEST_ID. Refused is what was never accepted: the
# client says that it comes back when it was.
client() {
  local k=$1 round=0 from code verdict case
  while [ ! -e enough ] && [ -d "$work" ]; do
    case=$(((k + round++) % ${#cases[@]}))
    from=$(now_ms)
    # shellcheck disable=SC2086  # words
    setpriv --pdeathsig KILL "$diptych" generate --server "$server" --timeout 240 --progress always --json -o "c$k.png" ${cases[case]} >"c$k.json" 2>"c$k.err" </dev/null
    code=$?
    if [ $code -eq 0 ] && [ "$(hashes <"c$k.json")" = "${expected[case]}" ]; then
      verdict=equal
    elif [ $code -eq 0 ]; then
      verdict=WRONG
    elif grep -qE '\((NO_WORKERS|OVERLOADED|DRAINING|NOT_LEADER)\)|cannot reach a coordinator' "c$k.err" && ! grep -q 'coming back' "c$k.err"; then
      verdict=refused
    else
      verdict=LOST
    fi
    echo "$k $case $from $(now_ms) $code $verdict $(field request_id <"c$k.json")" >>"history.$k"
    [ $verdict = equal ] || { echo "--- $(date +%T) client $k, case $case: exit $code"; tail -c 2000 "c$k.err"; } >>troubles
    [ $verdict != refused ] || sleep 0.2
  done
}

# start_clients COUNT
start_clients() {
  local k
  rm -f enough history.*
  clients=()
  for k in $(seq "$1"); do
    : >"history.$k"
    client "$k" &
    clients+=($!)
  done
}

# everybody_has_asked_since MS: each client has had a whole request after that moment
everybody_has_asked_since() {
  local file
  for file in history.*; do
    tail -n 1 "$file" | awk -v since="$1" '$3 > since && $6 == "equal" {found = 1} END {exit !found}' || return 1
  done
}

# everybody_asks: each client has had a whole request after the blow
everybody_asks() {
  checks=$((checks + 1))
  wait_for everybody_has_asked_since "$at" || complain "$kind, run $run: requests stand still: $(tail -n 1 history.*; tail -n 20 troubles; cut -c 1-300 seen)"
}

# stop_clients: lets each finish what it has asked
stop_clients() {
  touch enough
  checks=$((checks + 1))
  patience=$((2 * patience)) wait_for all_gone "${clients[@]}" || complain "clients still wait: $(tail -n 3 c*.err)"
}
all_gone() { local pid; for pid in "$@"; do kill -0 "$pid" 2>/dev/null && return 1; done; return 0; }

# ---- the checker ----

# judge KIND: every accepted request has ended exactly once and with the bytes of the embedded program
judge() {
  local kind=$1
  asked=$(cat history.* | wc -l)
  equal=$(grep -h ' equal ' history.* | wc -l)
  refused=$(grep -hE ' refused( |$)' history.* | wc -l)
  bad=$((asked - equal - refused))
  checks=$((checks + asked))
  [ "$bad" -eq 0 ] || complain "$kind: $bad of $asked requests were lost or are wrong: $(grep -hE 'LOST|WRONG' history.*; tail -n 40 troubles)"
  [ "$equal" -gt 0 ] || complain "$kind: no request was finished"
  # What the coordinators wrote down: an end for every request that a client has seen, and one only.
  if [ "${is_log_whole:-yes}" = yes ]; then
    checks=$((checks + 1))
    grep -h ' equal ' history.* | cut -d ' ' -f 7 | sort >ended.clients
    cat coordinator-*.err | grep -F '"msg": "request"' | grep -F '"code": "OK"' | field_each request_id | sort >ended.all
    # Only these: one that a coordinator finished as it was killed, in an earlier kind, was finished by the next one, too.
    grep -Fxf ended.clients ended.all | cmp -s - ended.clients || complain "$kind: not ended once: $(grep -Fxf ended.clients ended.all | diff - ended.clients)"
  fi
  ids_are_unique "$kind"
  asked_total=$((${asked_total:-0} + asked)) equal_total=$((${equal_total:-0} + equal))
  refused_total=$((${refused_total:-0} + refused)) lost_total=$((${lost_total:-0} + bad))
}
# No request of a client has the id of another one, so that each line of the history is one end of one request; this
# holds also where a coordinator was killed and took its log along.
ids_are_unique() {
  checks=$((checks + 1))
  [ -z "$(cut -d ' ' -f 7 history.* | grep . | sort | uniq -d)" ] || complain "$1: ended twice for a client: $(cut -d ' ' -f 7 history.* | sort | uniq -d)"
}
# epochs_grow WORKERS...: nobody was led under an epoch after a larger one, over all of its lives
epochs_grow() {
  local name
  for name in "$@"; do
    checks=$((checks + 1))
    sed -nE 's/.*connected to the coordinator at [^,]*, epoch ([0-9]+).*/\1/p' "$name.err" >epochs
    [ -s epochs ] && sort -nC epochs || complain "$name: epochs were $(tr '\n' ' ' <epochs)"
  done
}

# ---- memory ----

# remember_memory NAMES...: of those that are new since, as they are with nothing left to do
declare -A remembered=()
resident() { awk '/^VmRSS/ {print $2}' "/proc/${pid_of[$1]}/status"; }
remember_memory() {
  local name
  for name in "$@"; do
    [ -n "${remembered[${pid_of[$name]}]:-}" ] || remembered[${pid_of[$name]}]=$(resident "$name")
  done
}
# memory_is_back KIB NAMES...: none has grown by more since, whatever it has been through. The address sanitizer keeps what
# is freed for a while, so that a process grows without losing anything: there its own search for leaks decides.
memory_is_back() {
  local kib=$1 name was now
  [ "$(nm "$diptych" 2>/dev/null | grep -c __asan_)" -eq 0 ] || return 0
  for name in "${@:2}"; do
    was=${remembered[${pid_of[$name]}]:-} now=$(resident "$name")
    [ -n "$was" ] || continue
    checks=$((checks + 1))
    [ $((now - was)) -le "$kib" ] || complain "$name has grown from $was to $now KiB"
  done
}

field_each() { grep -oE "\"$1\": \"[^\"]*\"" | cut -d '"' -f 4; }

# recovery SINCE: milliseconds until the last of those requests ended that ran at that moment
recovery() { cat history.* | awk -v at="$1" '$3 <= at && $4 >= at && $4 - at > worst {worst = $4 - at} END {print worst + 0}'; }
middle() { sort -n | awk '{v[NR] = $1} END {print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }

# end_all NAMES...: SIGTERM to one after the other; all leave in order, and nobody of ours is left
end_all() {
  local name
  for name in "$@"; do
    put_down "$name" TERM
    same "$name ends when asked" 0 "$ended"
  done
  checks=$((checks + 1))
  [ -z "$(pgrep -f -- "--cluster $cluster( |\$)")" ] || complain "left behind: $(pgrep -af -- "--cluster $cluster( |\$)")"
}
