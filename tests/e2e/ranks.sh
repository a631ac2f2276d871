#!/usr/bin/env bash
# tests/e2e/ranks.sh - a worker of two ranks is one unit: same bytes, one set of probes and metrics, a rank that dies is started again until the budget is spent, SIGTERM drains both, kill -9 leaves nobody behind.
. "$(dirname "$0")/common.bash"
cd "$work" || exit 1
address() { sed -n "s/^coordinator: listening on //p" "$1" | head -n 1; }
# get PATH: what the worker of ranks answers
get() { page "$port" "$1"; }
answers() { get "$1" | tr -d '\r' | tr '\n' ' ' | grep -q "^HTTP/1.[01] $2.*${3-}"; }
# rank N: its process
rank() { pgrep -P "$unit" -f -- "--name unit-$1 "; }
is_gone() { ! kill -0 "$1" 2>/dev/null; }

"$diptych" coordinator --model "$tiny" --listen 127.0.0.1:0 --ar-tp 2 >c.out 2>c.err &
pids+=($!)
expect "no coordinator" said c.out 'listening on'
server=$(address c.out)
"$diptych" worker --model "$tiny" --server "$server" --role diffusion --threads 1 --name d --http 127.0.0.1:0 >d.out 2>d.err &
pids+=($!)
expect "the diffusion worker has no pages" said d.out 'metrics on port'
painter=$(sed -n 's/^worker: metrics on port //p' d.out | head -n 1)
start_unit() {
  : >u.out # what the unit before has said is not this one's
  "$diptych" worker --model "$tiny" --server "$server" --role ar --ranks 2 --name unit --threads 1 --http 127.0.0.1:0 "$@" >u.out 2>u.err &
  unit=$!
  pids+=("$unit")
  expect "the unit has no pages" said u.out 'metrics on port'
  port=$(sed -n 's/^worker: metrics on port //p' u.out | head -n 1)
}
start_unit
expect "the unit did not start" answers /startupz 200
expect "the unit is not ready" answers /readyz 200
expect "a rank is not there" eval '[ "$("$diptych" status --server "$server" | grep -cE "^unit-[01] .* ready")" -eq 2 ]'

# The bytes of one process, and one page for both.
expected=$(sha --seed 5 --steps 4 dog)
same "a worker of two ranks" "$expected" "$("$diptych" generate --server "$server" --timeout 60 --json -o r.png --seed 5 --steps 4 dog 2>r.err | field image_sha256)"
sleep 1.6 # a page is a second old at most
get /metrics | sed '1,/^\r$/d' >metrics.txt
for series in 'diptych_worker_connected{rank="0"} 1' 'diptych_worker_connected{rank="1"} 1' 'diptych_rank_up{rank="1"} 1' 'diptych_rank_restarts_total{rank="0"} 0'; do
  checks=$((checks + 1))
  grep -qF "$series" metrics.txt || complain "no $series"
done
grep -qE '^diptych_worker_steps_total\{rank="0"\} [1-9]' metrics.txt || complain "rank 0 has made no step"
for rank in 0 1; do # one image was drawn: each step had one
  steps=$(sed -n "s/^diptych_worker_steps_total{rank=\"$rank\"} //p" metrics.txt)
  same "images in the steps of rank $rank" "$steps" "$(sed -n "s/^diptych_batch_size_bucket{rank=\"$rank\",role=\"ar\",le=\"1\"} //p" metrics.txt)"
done
if command -v promtool >/dev/null; then
  accepts promtool check metrics <metrics.txt
else
  echo "NOT checked: promtool is missing"
fi

# A client that leaves: slots are free at once, and the page tells how long that took.
stops() { page "$painter" /metrics | tr -d '\r' | sed -n 's/^diptych_cancel_to_stop_seconds_count{phase="diffusion"} //p'; }
same "nothing has been stopped" 0 "$(stops)"
"$diptych" generate --server "$server" --timeout 3600 --progress always -o l.png --steps 1000 -n 16 dog >l.out 2>l.err &
client=$!
expect "no second image" said d.err '"painted".*"image": [1-9]'
kill -KILL "$client"
expect "what its client has left is not stopped" eval '[ "$(stops)" -ge 1 ]'

# A rank that stands still is a unit that does not live, and says which.
kill -STOP "$(rank 1)"
expect "a rank that stands still is live" answers /healthz 503 'rank 1 does not answer'
kill -CONT "$(rank 1)"
expect "it does not live again" answers /healthz 200
expect "it is not ready again" answers /readyz 200

# Three deaths are made good, and the cluster works; the fourth ends the unit with a reason.
for death in 1 2 3; do
  victim=$(rank $((death % 2)))
  kill -KILL "$victim"
  expect "death $death is not noticed" said u.err 'killed by signal 9'
  expect "it has not started again" eval '[ -n "$(rank 0)" ] && [ -n "$(rank 1)" ] && [ "$(rank $((death % 2)))" != "$victim" ]'
  expect "the unit is not ready after death $death" answers /readyz 200
  : >u.err
done
expect "the group does not stand again" eval '"$diptych" status --server "$server" | grep -qE "^unit-0 .* ready"'
same "after three deaths" "$expected" "$("$diptych" generate --server "$server" --timeout 60 --json -o r.png --seed 5 --steps 4 dog 2>r.err | field image_sha256)"
other=$(rank 1)
kill -KILL "$(rank 0)"
wait "$unit"
same "four deaths: exit status" 1 $?
grep -q '^error: ranks have died 4 times within ten minutes' u.err || complain "no reason: $(cat u.err)"
expect "a rank is left behind" is_gone "$other"

# SIGTERM in mid-request: it is finished first. kill -9 takes the ranks along.
start_unit --grace 30
expect "the second unit is not ready" answers /readyz 200
"$diptych" generate --server "$server" --timeout 60 --json --progress always -o t.png --seed 5 --steps 4 dog >t.json 2>t.err &
client=$!
expect "no progress" test -s t.err
kill -TERM "$unit"
wait "$unit"
same "SIGTERM: exit status" 0 $?
wait $client
same "the request of a unit that went: exit status" 0 $?
same "the request of a unit that went" "$expected" "$(field image_sha256 <t.json)"
start_unit
expect "no ranks" eval '[ -n "$(rank 0)" ] && [ -n "$(rank 1)" ]'
left="$(rank 0) $(rank 1)"
kill -KILL "$unit"
for pid in $left; do expect "a rank outlives its parent" is_gone "$pid"; done

refuses 2 'ranks are of the AR panel' "$diptych" worker --model "$tiny" --ranks 2
refuses 2 'cut|degree|ranks' "$diptych" worker --model "$tiny" --role ar --ranks 3
refuses 2 'longer than 63 bytes' "$diptych" worker --model "$tiny" --role ar --ranks 2 --name "$(printf 'n%.0s' {1..62})"

finish
