#!/usr/bin/env bash
# tests/e2e/up.sh - `diptych up`: a cluster of processes gives the bytes of the embedded program, survives kill -9 of its workers, drains, and leaves nobody behind.
. "$(dirname "$0")/common.bash"
cd "$work" || exit 1
trap 'stop_all; rm -rf "$work"' EXIT
ups=()
model=$tiny

stop_all() { for pid in "${ups[@]}"; do kill -KILL "$pid" 2>/dev/null; done; }

# start_up NAME OPTIONS...: leaves $up (pid) and $server
start_up() {
  local name=$1
  shift
  : >"$name.out"
  "$diptych" up --model "$model" --listen 127.0.0.1:0 --threads 1 "$@" >"$name.out" 2>"$name.err" &
  up=$!
  ups+=("$up")
  wait_for grep -q '^up: ready' "$name.out" || complain "$name did not come up: $(cat "$name.out" "$name.err")"
  server=$(sed -n 's/^up: listening on //p' "$name.out" | head -n 1)
}

# workers: pids of the members of $up, by a pattern of their command line
members() { pgrep -P "$up" -f "$1"; }
gone() { ! kill -0 "$1" 2>/dev/null; }
# begun FILE: the request whose progress is written there has been admitted, and work has begun
begun() { wait_for test -s "$1" || complain "no progress in $1"; }
none_left() { local pid; for pid in "$@"; do kill -0 "$pid" 2>/dev/null && return 1; done; return 0; }

# end_up NAME: SIGTERM drains; status 0, and every process gone
end_up() {
  local pids
  pids=$(pgrep -P "$up")
  kill -TERM "$up"
  wait "$up"
  same "$1: exit status" 0 $?
  checks=$((checks + 1))
  # shellcheck disable=SC2086  # a list of numbers
  patience=5 wait_for none_left $pids || complain "$1: processes are left: $(ps -o pid,args -p $pids)"
}

# is_sent_away WORDS OPTIONS...: a worker that does not fit into the cluster is told why, and still ends in order
is_sent_away() {
  local other words=$1
  shift
  "$diptych" worker --server "$server" "$@" >/dev/null 2>other.err &
  other=$!
  ups+=("$other")
  checks=$((checks + 1))
  patience=30 wait_for grep -q "$words" other.err || complain "a worker that does not fit ($words): $(cat other.err)"
  kill -TERM $other
  wait $other
  same "a worker that does not fit ($words): exit status" 0 $?
}

# remote ARGUMENTS...: hashes of all images that the cluster makes
remote() { "$diptych" generate --server "$server" --timeout 120 --json -o "$work/r.png" "$@" 2>remote.err | hashes; }
embedded() { "$diptych" generate --model "$model" --json -o "$work/e.png" "$@" | hashes; }
hashes() { grep -oE '"images": .*' | grep -oE '"image_sha256": "[0-9a-f]+"' | tr '\n' ' '; }

# ---- one AR worker, two for diffusion ----
start_up pair --diffusion 2 --http 127.0.0.1:0
for arguments in "--seed 5 dog" "--seed 6 -n 4 cat" "--seed 7 --sampler dpm++ --guidance 3.5 --top-k 9 bird" "--seed 8 --no-metadata --steps 7 fish"; do
  # shellcheck disable=SC2086  # words
  same "cluster and embedded: $arguments" "$(embedded $arguments)" "$(remote $arguments)"
done
cmp -s r.png e.png || complain "the files differ"
same "a prompt of two languages" "$(embedded -s 3 "ein Käse, 奶酪")" "$(remote -s 3 "ein Käse, 奶酪")"
"$diptych" generate --server "$server" --steps 4 --previews p --preview-every 2 x >/dev/null 2>&1
same "previews" "preview-0-2.png" "$(ls p 2>/dev/null | tr '\n' ' ' | sed 's/ $//')"
refuses 2 'BAD_FIELD' "$diptych" generate --server "$server" --size 63x63 x
refuses 3 'MODEL_UNKNOWN' "$diptych" generate --server "$server" --model nowhere/other x
accepts "$diptych" status --server "$server"
for member in ar-0 diffusion-0 diffusion-1; do grep -qE "^$member .* ready" stdout || complain "status lacks $member: $(cat stdout)"; done

# Drain gives the other one all of the work, undrain takes it back.
accepts "$diptych" drain --server "$server" diffusion-0
same "with one of them drained" "$(embedded -s 9 -n 3 x)" "$(remote -s 9 -n 3 x)"
checks=$((checks + 1))
patience=10 wait_for eval '"$diptych" status --server "$server" | grep -q "^diffusion-0 .* drained"' || complain "diffusion-0 is not drained: $("$diptych" status --server "$server")"
accepts "$diptych" undrain --server "$server" diffusion-0
checks=$((checks + 1))
patience=10 wait_for eval '"$diptych" status --server "$server" | grep -q "^diffusion-0 .* ready"' || complain "diffusion-0 is not back"
refuses 3 'WORKER_UNKNOWN' "$diptych" drain --server "$server" nobody

# Pages for machines.
port=$(sed -n 's/^up: metrics on port //p' pair.out)
get() { exec 3<>"/dev/tcp/127.0.0.1/$port" && printf 'GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' "$1" >&3 && cat <&3; }
get /healthz | grep -q '^HTTP/1.1 200' || complain "/healthz: $(get /healthz)"
get /readyz | grep -q '^HTTP/1.1 200' || complain "/readyz: $(get /readyz)"
sleep 0.6 # a page is at most half a second old
get /metrics | sed '1,/^\r$/d' >metrics.txt
if command -v promtool >/dev/null; then
  checks=$((checks + 1))
  promtool check metrics <metrics.txt >promtool.txt 2>&1 || complain "promtool: $(cat promtool.txt)"
else
  echo "NOT checked: promtool is missing"
fi
grep -qE '^diptych_images_total\{model="model"\} [1-9]' metrics.txt || complain "no images are counted"
grep -qE '^diptych_phase_duration_seconds_count\{phase="send"\} [1-9]' metrics.txt || complain "no reader has taken anything"
checks=$((checks + 1)) # those of three workers; the kernel is asked every five seconds
patience=20 wait_for eval 'get /metrics | grep -qE "^diptych_connections\{listener=\"grpc\"\} [3-9]"' || complain "connections: $(get /metrics | grep connections)"
grep -qF 'diptych_requests_total{method="Generate",code="INVALID_ARGUMENT",reason="BAD_FIELD"} 1' metrics.txt || complain "the bad field is not counted"
for never in 'diptych_requests_total{method="Generate",code="UNAVAILABLE",reason="OVERLOADED"}' \
  'diptych_fenced_messages_total{kind="epoch"}' 'diptych_fenced_messages_total{kind="incarnation"}' 'diptych_watchdog_fired_total{reason="silent"}' \
  'diptych_watchdog_fired_total{reason="stuck"}' diptych_comm_rebuild_seconds_count diptych_etcd_watch_resyncs_total \
  'diptych_quota_used_ratio{tenant="default"}' \
  'diptych_etcd_request_duration_seconds_count{op="keepalive"}' 'diptych_lease_ttl_seconds{lease="leader"}'; do
  checks=$((checks + 1))
  grep -qF "$never 0" metrics.txt || complain "what never happened has no series: $never"
done
checks=$((checks + 1))
grep -qE '^diptych_build_info\{version="[0-9.]+",commit="([0-9a-f]{12,40}|[^"]*-g[0-9a-f]+|unknown)(-dirty)?"\} 1' metrics.txt || complain "what is running: $(grep ^diptych_build metrics.txt)"

# ---- kill -9 at a random moment, again and again: the request costs time, never the image ----
everybody_is_ready() { [ "$("$diptych" status --server "$server" 2>/dev/null | grep -cE "^(ar|diffusion)-[01] .* ready")" -eq 3 ]; }
expected=$(embedded --seed 11 --steps 300 -n 6 x)
runs=20
[ "$(nm "$diptych" 2>/dev/null | grep -cE '__(asan|tsan|ubsan)_')" -gt 0 ] && runs=5 # where everything takes ten times as long
for run in $(seq $runs); do
  patience=30 wait_for everybody_is_ready || complain "run $run: not everybody is back: $("$diptych" status --server "$server")"
  victim=$([ $((run % 3)) -eq 0 ] && echo ar-0 || echo diffusion-$((run % 2)))
  : >k.err
  "$diptych" generate --server "$server" --timeout 120 --json --progress always -o k.png --seed 11 --steps 300 -n 6 x >k.json 2>k.err &
  client=$!
  begun k.err
  sleep 0.$((RANDOM % 3))$((RANDOM % 10))
  pid=$(members "name $victim ")
  kill -KILL "$pid"
  wait $client
  same "run $run, $victim killed: exit status" 0 $?
  same "run $run, $victim killed" "$expected" "$(hashes <k.json)"
  [ -s k.json ] || sed "s/^/run $run, $victim: /" k.err
done
sleep 0.6
checks=$((checks + 1))
replays=$(get /metrics | sed -n 's/^diptych_replays_total{reason="worker_lost"} //p' | tr -d '\r')
[ "${replays:-0}" -gt 0 ] || complain "no image was replayed in $runs runs: the kills came too late to test anything"
echo "$runs kills, $replays images replayed"
grep -q 'was killed by signal 9; it starts again' pair.out || complain "up says nothing of its dead: $(cat pair.out)"
patience=30 wait_for everybody_is_ready || complain "not everybody is back: $("$diptych" status --server "$server")"

# ---- SIGTERM in the middle of a request: it is finished first ----
"$diptych" generate --server "$server" --timeout 120 --json --progress always -o t.png --seed 11 --steps 300 -n 6 x >t.json 2>t.err &
client=$!
begun t.err
end_up "SIGTERM during a request"
wait $client
same "the request of a draining cluster: exit status" 0 $?
same "the request of a draining cluster" "$expected" "$(hashes <t.json)"
refuses 3 'cannot reach' "$diptych" generate --server "$server" x

# ---- the AR panel cut in two and in four: the same bytes, also when a rank dies ----
for ranks in 2 4; do
  [ $ranks -eq 2 ] || model=$root/tests/golden/tiny-b/model
  start_up tp$ranks --ar-tp $ranks
  for arguments in "--seed 5 dog" "--seed 6 -n 4 cat"; do
    # shellcheck disable=SC2086  # words
    same "$ranks ranks: $arguments" "$(embedded $arguments)" "$(remote $arguments)"
  done
  [ $ranks -eq 4 ] || for run in 1 2 3 4; do
    : >k.err
    "$diptych" generate --server "$server" --timeout 120 --json --progress always -o k.png --seed 11 --steps 300 -n 6 x >k.json 2>k.err &
    client=$!
    begun k.err
    sleep 0.0$((RANDOM % 10))
    kill -KILL "$(members "name ar-$((run % 2)) ")"
    wait $client
    same "rank $((run % 2)) of 2 killed, run $run: exit status" 0 $?
    same "rank $((run % 2)) of 2 killed, run $run" "$expected" "$(hashes <k.json)"
    [ -s k.json ] || cat k.err
    wait_for eval '"$diptych" generate --server "$server" -o again.png x >/dev/null 2>&1' || complain "the group did not form again: $("$diptych" status --server "$server")"
  done
  [ $ranks -eq 4 ] || is_sent_away 'it draws alone, and this coordinator forms groups of 2' --model "$model" --role ar
  end_up "$ranks ranks"
done

refuses 2 'cannot be cut|degree|ranks' "$diptych" up --model "$tiny" --listen 127.0.0.1:0 --ar-tp 4
model=$tiny

# ---- who may do what ----
printf 'plain:word-of-team-a team-a generate\nplain:word-of-the-operators ops read,admin\n' >tokens
start_up guarded --tokens "$work/tokens"
refuses 3 'NO_CREDENTIAL' "$diptych" generate --server "$server" x
refuses 3 'BAD_CREDENTIAL' "$diptych" generate --server "$server" --token guessed-by-a-stranger x
accepts env DIPTYCH_TOKEN=word-of-team-a "$diptych" generate --server "$server" x
refuses 3 'ROLE_REQUIRED' "$diptych" drain --server "$server" --token word-of-team-a ar-0
accepts "$diptych" drain --server "$server" --token word-of-the-operators ar-0
end_up guarded

# ---- kill -9 of `up` itself takes everybody along ----
start_up orphans
pids=$(pgrep -P "$up")
kill -KILL "$up"
checks=$((checks + 1))
# shellcheck disable=SC2086  # a list of numbers
patience=5 wait_for none_left $pids || complain "orphans: $(ps -o pid,args -p $pids)"

# ---- what cannot work is said, once, at the start ----
start_up first
"$diptych" up --model "$tiny" --listen "$server" >taken.out 2>taken.err
same "a port that is taken: exit status" 1 $?
grep -q '^error: .*listen' taken.err || complain "a port that is taken: $(cat taken.out taken.err)"
"$diptych" up --model "$work/nothing" --listen 127.0.0.1:0 >no.out 2>no.err
differ "a model that is not there: exit status" 0 $?
"$diptych" up --model "$tiny" --listen 0.0.0.0:0 >plain.out 2>plain.err
same "plaintext for everybody: exit status" 2 $?
grep -q -- '--insecure' plain.err || complain "plaintext for everybody: $(cat plain.err)"
is_sent_away 'it has the model .* and this coordinator' --model "$root/tests/golden/tiny-b/model"
is_sent_away 'it is one rank of a group' --model "$tiny" --role ar --ar-rank
same "workers that fit" 2 "$("$diptych" status --server "$server" | grep -cE '^[^ ]+ +(ar|diffusion|both) +(starting|ready) ')"
end_up first

# Nobody fell over by itself, and no sanitizer had anything to say.
checks=$((checks + 1))
! grep -E 'ended with status|killed by signal ([0-8]|1[0-9])' pair.out tp*.out guarded.out first.out || complain "a process ended by itself"
! grep -lE 'Sanitizer|runtime error' ./*.err || complain "$(cat ./*.err)"
finish
