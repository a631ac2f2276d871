#!/usr/bin/env bash
# tests/e2e/scaler.sh - a cluster from zero workers and back: requests are held, KEDA's questions (asked by grpcio from the public .proto) say what is wanted, also at a coordinator that does not lead; what is held too long ends as NO_WORKERS.
. "$(dirname "$0")/common.bash"
cd "$work" || exit 1
command -v etcd >/dev/null || { echo "etcd is missing"; exit 1; }
command -v grpc_python_plugin >/dev/null && /usr/bin/python3 -c 'import grpc, google.protobuf' 2>/dev/null ||
  { echo "python3-grpcio, python3-protobuf or protobuf-compiler-grpc is missing"; exit 1; }

mkdir stubs
python_stubs "$work/stubs" keda/externalscaler.proto diptych/v1/{cluster,image,model}.proto google/rpc/{code,error_details,status}.proto || complain "no stubs"
keda() { PYTHONPATH=stubs timeout 130 /usr/bin/python3 "$root/tests/e2e/clients/python/scaler.py" "$@"; }

urls=http://127.0.0.1:$(free_port)
peer=http://127.0.0.1:$(free_port)
etcd --data-dir=e --listen-client-urls="$urls" --advertise-client-urls="$urls" --listen-peer-urls="$peer" \
  --initial-advertise-peer-urls="$peer" --initial-cluster="default=$peer" >etcd.err 2>&1 &
pids+=($!)
declare -A address_of http_of pid_of
coordinator() { # NAME OPTIONS...
  local name=$1
  shift
  "$diptych" coordinator --model "$tiny" --name "$name" --cluster scaler --listen 127.0.0.1:0 --http 127.0.0.1:0 "$@" >"$name.out" 2>"$name.err" &
  pids+=($!)
  pid_of[$name]=$!
  expect "$name does not listen" said "$name.out" 'metrics on'
  address_of[$name]=$(sed -n 's/^coordinator: listening on //p' "$name.out")
  http_of[$name]=$(sed -n 's/^coordinator: metrics on port //p' "$name.out")
}
get() { page "${http_of[$1]}" "$2"; }
answers() { get "$1" "$2" | head -n 1 | grep -q " $3"; }
leads() { "$diptych" status --server "${address_of[$1]}" --json 2>/dev/null | grep -q "\"leader\": \"${address_of[$1]}\""; }
coordinator one --etcd "$urls" --hold 60
coordinator two --etcd "$urls" --hold 60
expect "nobody leads" eval 'leads one || leads two'
if leads one; then leader=one other=two; else leader=two other=one; fi
sleep 3.5 # a new leader waits some seconds for workers in any case

# Both may be sent requests, with no worker anywhere.
for name in one two; do expect "$name is not ready" answers $name /readyz 200; done
accepts keda "${address_of[$leader]}" idle
accepts keda "${address_of[$other]}" idle
accepts keda "${address_of[$other]}" invalid
keda "${address_of[$other]}" watch >watch.out 2>watch.err &
watcher=$!
expect "the watcher hears nothing" said watch.out False

# A request to the one that does not lead is held, and calls for workers of both pools.
"$diptych" generate --server "${address_of[$other]}" --timeout 90 --json -o r.png --seed 5 --steps 4 dog >r.json 2>r.err &
client=$!
expect "the watcher does not hear of work" said watch.out True
accepts keda "${address_of[$leader]}" busy
accepts keda "${address_of[$other]}" busy
expect "it is not counted" eval 'get $leader /metrics | grep -q "^diptych_held_requests 1"'
get $leader /metrics | tr -d '\r' >held.txt
for series in 'diptych_scale_wanted{pool="ar"} 1' 'diptych_scale_wanted{pool="diffusion"} 1' 'diptych_scale_current{pool="ar"} 0' 'diptych_pool_workers{pool="diffusion",state="ready"} 0'; do
  checks=$((checks + 1))
  grep -qF "$series" held.txt || complain "no $series: $(grep -E 'diptych_(scale|pool)' held.txt)"
done
kill -0 $client 2>/dev/null || complain "the request was not held: $(cat r.err)"
for role in ar diffusion; do
  "$diptych" worker --model "$tiny" --role $role --name $role --cluster scaler --etcd "$urls" --threads 1 >$role.out 2>$role.err &
  pids+=($!)
done
wait $client
same "the request that was held: exit status" 0 $?
same "the request that was held" "$(sha --seed 5 --steps 4 dog)" "$(field image_sha256 <r.json)"
wait $watcher
same "the watcher: exit status" 0 $?
accepts keda "${address_of[$leader]}" idle
checks=$((checks + 1))
get $other /metrics | grep -qE '^diptych_forwarded_calls_total [1-9]' || complain "no call was passed on"
# Many images through the one that does not lead, previews on the way.
same "six images through the other one" "$("$diptych" generate --model "$tiny" --json -o e.png -n 6 --seed 8 fox | grep -o '"image_sha256": "[^"]*"' | sort)" \
  "$("$diptych" generate --server "${address_of[$other]}" --timeout 60 --previews p --json -o s.png -n 6 --seed 8 fox 2>s.err | grep -o '"image_sha256": "[^"]*"' | sort)"

# The one that does not lead is told to go while a request passes through it: that is finished first.
long=(--steps 600 -n 4 --seed 9 elk)
hashes() { grep -o '"image_sha256": "[^"]*"' | sort; }
expected=$("$diptych" generate --model "$tiny" --json -o e.png "${long[@]}" | hashes)
"$diptych" generate --server "${address_of[$other]}" --timeout 60 --json --progress always -o l.png "${long[@]}" >l.json 2>l.err &
client=$!
expect "the long request has not begun" test -s l.err
kill -TERM "${pid_of[$other]}"
wait $client
same "the request through one that went: exit status" 0 $?
same "the request through one that went" "$expected" "$(hashes <l.json)"
grep -q 'again\|retry\|lost' l.err && complain "it had to be asked again: $(cat l.err)"
wait "${pid_of[$other]}"
same "the one that went: exit status" 0 $?

# Nobody comes: the request ends as the table of errors says.
coordinator three --hold 2 --cluster "<i>&'x'"
sleep 3.5
accepts keda "${address_of[three]}" held

# The page for people and the one for programs; what comes from outside is text and nothing else.
for name in $leader three; do
  get $name /status | tr -d '\r' >status.html
  get $name /status.json | sed '1,/^\r$/d' >status.json
  accepts /usr/bin/python3 -m json.tool status.json
  for words in 'HTTP/1.[01] 200' 'Content-Security-Policy: default-src .none.' 'Content-Type: text/html' '>leads<' '<td>diffusion</td>'; do
    checks=$((checks + 1))
    grep -q "$words" status.html || complain "/status of $name lacks $words: $(head -c 600 status.html)"
  done
done
checks=$((checks + 2))
grep -qF '&lt;i&gt;&amp;&#39;x&#39;' status.html || complain "the cluster's name is not escaped: $(head -c 2000 status.html)"
grep -qF '<i>' status.html && complain "the cluster's name is markup"
same "status.json's cluster" "<i>&'x'" "$(field cluster <status.json)"
get $leader /status.json | grep -q '"name": "diffusion"' || complain "/status.json lacks a worker"
finish
