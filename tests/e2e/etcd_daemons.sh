#!/usr/bin/env bash
# tests/e2e/etcd_daemons.sh - coordinators and workers that find each other in a real etcd: the leader is killed or stands still, etcd goes and comes back, a drain wish outlives both, and a clean exit leaves nothing behind.
. "$(dirname "$0")/common.bash"
cd "$work" || exit 1
command -v etcd >/dev/null && command -v etcdctl >/dev/null || { echo "etcd and etcdctl are missing"; exit 1; }
export ETCDCTL_API=3
patience=90

port=$(free_port)
peer=$(free_port)
urls=http://127.0.0.1:$port
start_etcd() {
  etcd --data-dir="$work/etcd" --listen-client-urls="$urls" --advertise-client-urls="$urls" \
    --listen-peer-urls="http://127.0.0.1:$peer" --initial-advertise-peer-urls="http://127.0.0.1:$peer" \
    --initial-cluster="default=http://127.0.0.1:$peer" >>etcd.out 2>&1 &
  etcd=$!
  pids+=("$etcd")
}
keys() { etcdctl --endpoints "$urls" get --prefix "/diptych/e2e/$1" --keys-only 2>/dev/null | grep -c .; }
no_keys() { [ "$(keys "$1")" = 0 ]; }

# daemon NAME WORDS...: leaves its process id in ${pid_of[NAME]}
declare -A pid_of address_of
daemon() {
  local name=$1
  shift
  : >"$name.out" # of a life before: it says where that one listened
  "$diptych" "$@" --model "$tiny" --name "$name" --cluster e2e --etcd "$urls" --listen 127.0.0.1:0 --log-format text >"$name.out" 2>"$name.log" &
  pid_of[$name]=$!
  pids+=("$!")
  wait_for grep -qs "listening on" "$name.out" || complain "$name did not start: $(cat "$name.log")"
  address_of[$name]=$(sed -n 's/^coordinator: listening on //p' "$name.out" | head -n 1)
}
leads() { "$diptych" status --server "${address_of[$1]}" --json 2>/dev/null | grep -q "\"leader\": \"${address_of[$1]}\""; }
one_leads() { leads one || leads two; }
shows() { "$diptych" status --server "${address_of[$1]}" 2>/dev/null | grep -qE "$2"; }
is_degraded() { shows "$1" degraded; }
is_well() { ! is_degraded "$1"; }
remote() { "$diptych" generate --server "${address_of[$1]}" --timeout $patience --json -o "$work/r.png" --seed 5 dog 2>>remote.err | field image_sha256; }

start_etcd
daemon one coordinator
daemon two coordinator
daemon left worker --threads 1
daemon right worker --threads 1
expect "nobody leads" one_leads
if leads one; then leader=one other=two; else leader=two other=one; fi
for worker in left right; do expect "$worker is not ready" shows $leader "^$worker .* ready"; done
hash=$("$diptych" generate --model "$tiny" --json -o e.png --seed 5 dog | field image_sha256)
same "a request to the leader" "$hash" "$(remote $leader)"
same "a request to the other one" "$hash" "$(remote $other)"

# Whoever is asked shows the cluster as its leader sees it, and watchers are sent there, too.
for worker in left right; do expect "the other one does not show $worker" shows $other "^$worker .* ready"; done
expect "the other one shows no pools" shows $other "^diffusion +[12] ready"
"$diptych" status --watch --json --server "${address_of[$other]}" >watch.out 2>watch.err &
watch=$!
expect "a watch at the other one sees nobody" grep -q '"name": "right"' watch.out
kill -TERM $watch
wait $watch
same "a watch that is told to stop: exit status" 0 $?

# An operator's wish, then the leader dies: the next one has a larger epoch, the workers, and the wish.
accepts "$diptych" drain --server "${address_of[$leader]}" right
expect "the wish is not written down" eval '[ "$(keys drain/)" -ge 1 ]'
epoch=$("$diptych" status --server "${address_of[$leader]}" --json | field epoch)
hashes() { grep -oE '"image_sha256": "[0-9a-f]+"' | tr '\n' ' '; }
long=(--steps 400 -n 6 --seed 9 fox)
expected=$("$diptych" generate --model "$tiny" --json -o e.png "${long[@]}" | hashes)
"$diptych" generate --server "${address_of[$leader]},${address_of[$other]}" --timeout $patience --json -o long.png "${long[@]}" >long.out 2>long.err &
client=$!
expect "the long request does not run" eval 'shows $leader "[1-9][0-9]* running"'
kill -KILL "${pid_of[$leader]}"
checks=$((checks + 1))
kill -0 $client 2>/dev/null || complain "the long request was over before the leader died"
begin=$SECONDS
expect "the other one does not lead" leads $other
echo "the next one led after about $((SECONDS - begin)) s"
next=$("$diptych" status --server "${address_of[$other]}" --json | field epoch)
checks=$((checks + 1))
[ "${next:-0}" -gt "${epoch:-0}" ] || complain "epoch $next after $epoch"
expect "left did not follow" shows $other "^left .* ready"
expect "right forgot the wish" shows $other "^right .* drained"
same "a request to the next leader" "$hash" "$(remote $other)"
wait $client
same "the request that lost its leader: exit status" 0 $?
same "the request that lost its leader" "$expected" "$(hashes <long.out)"

# All of etcd is gone for longer than the leader's lease: requests are served, and it is said.
kill -KILL "$etcd"
expect "the loss of etcd is not said" is_degraded $other
until=$((SECONDS + 13))
while [ $SECONDS -lt $until ]; do
  same "a request without etcd" "$hash" "$(remote $other)"
  sleep 1
done
expect "left is not ready" shows $other "^left .* ready"
start_etcd
expect "etcd's return is not noticed" is_well $other
same "a request after etcd's return" "$hash" "$(remote $other)"
accepts "$diptych" undrain --server "${address_of[$other]}" right
expect "right is not back" shows $other "^right .* ready"
expect "the wish is not taken back" no_keys drain/
sleep 4 # and nobody thinks of it again
checks=$((checks + 1))
shows $other "^right .* ready" || complain "right drains again"
expect "they are not all registered" eval '[ "$(keys members/)" -ge 3 ]'

# The leader is stopped until another one leads, then goes on: the workers are the new one's, and the old one says so.
daemon $leader coordinator
kill -STOP "${pid_of[$other]}"
expect "nobody takes over from a leader that stands still" leads $leader
expect "left did not move" shows $leader "^left .* ready"
kill -CONT "${pid_of[$other]}"
led_by_other() { "$diptych" status --server "${address_of[$other]}" --json 2>/dev/null | grep -q "\"leader\": \"${address_of[$leader]}\""; }
expect "it does not know that another one leads" led_by_other
same "a request to the new leader" "$hash" "$(remote $leader)"
same "a request to the one that was stopped" "$hash" "$(remote $other)"
expect "left is gone" shows $leader "^left .* ready"

# etcd comes back without its data: its revisions begin again below the epochs that workers have seen, and work goes on all the same.
seen=$("$diptych" status --server "${address_of[$leader]}" --json | field epoch)
kill -KILL "$etcd"
wait "$etcd" 2>/dev/null
rm -rf "$work/etcd"
start_etcd
patience=60
expect "nobody leads in the new etcd" eval 'etcdctl --endpoints "$urls" get /diptych/e2e/leader --print-value-only 2>/dev/null | grep -q .'
for worker in left right; do expect "$worker is gone with etcd's data" eval 'shows one "^$worker .* ready" || shows two "^$worker .* ready"'; done
rises() { # the old leader may still show its workers when the next one is elected, which rises as they come to it
  if leads one; then leader=one other=two; else leader=two other=one; fi
  next=$("$diptych" status --server "${address_of[$leader]}" --json | field epoch)
  [ "${next:-0}" -ge "${seen:-0}" ]
}
expect "an epoch below $seen in the new etcd" rises
expect "no picture after etcd's data was lost" eval '[ "$(remote $leader)" = "$hash" ]'
# The one that leads now goes too, and the next one, which never led here, has to rise above what workers have seen.
kill -KILL "${pid_of[$leader]}"
expect "the other one does not lead in the new etcd" leads $other
for worker in left right; do expect "$worker refuses the next leader" shows $other "^$worker .* ready"; done
expect "no picture from the next leader" eval '[ "$(remote $other)" = "$hash" ]'
daemon $leader coordinator

# Clean exits, and nothing is left. Who was killed and came back first has to wait for its old lease to end.
registered() { etcdctl --endpoints "$urls" get "/diptych/e2e/members/$1" --print-value-only 2>/dev/null | grep -q "${address_of[$1]}"; }
expect "$leader did not register again" registered $leader

# The leader is told to stop: the next one leads at once, not when the old one's work is done, and takes that over; a client that knows no other
# address is passed on by the one that stops.
for worker in left right; do expect "$worker is not ready for a change of leaders" shows $other "^$worker .* ready"; done
"$diptych" generate --server "${address_of[$other]}" --timeout $patience --json -o long.png "${long[@]}" >long.out 2>long.err &
client=$!
expect "the long request does not run again" eval 'shows $other "[1-9][0-9]* running"'
begin=$(date +%s%3N)
kill -TERM "${pid_of[$other]}"
expect "the next one does not lead" leads $leader
echo "the next one led after $(($(date +%s%3N) - begin)) ms"
checks=$((checks + 1))
kill -0 $client 2>/dev/null || complain "the long request was over before the leader changed"
same "a request to the next leader" "$hash" "$(remote $leader)"
wait $client
same "the request whose leader stopped: exit status" 0 $?
same "the request whose leader stopped" "$expected" "$(hashes <long.out)"
wait "${pid_of[$other]}"
same "the leader that stopped: exit status" 0 $?
cat long.err
daemon $other coordinator
expect "$other did not register again" registered $other
for name in right left $other $leader; do
  kill -TERM "${pid_of[$name]}"
  wait "${pid_of[$name]}"
  same "$name: exit status" 0 $?
done
checks=$((checks + 1))
for name in right left "$other" "$leader"; do no_keys "members/$name" || complain "the key of $name is left"; done
no_keys leader || complain "the leader's key is left"
finish
