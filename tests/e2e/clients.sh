#!/usr/bin/env bash
# tests/e2e/clients.sh - clients in other languages, made from the .proto files alone: Python (grpcio), Node (@grpc/grpc-js), Go. Each streams, cancels, re-attaches and meets every row of the error table.
#
# What a language needs is fetched once into build/clients; without its tools or a network that language is left out, loudly.
. "$(dirname "$0")/common.bash"
cd "$work" || exit 1
trap 'kill -TERM "${running[@]}" 2>/dev/null; wait 2>/dev/null; rm -rf "$work"' EXIT
running=()
made=$root/build/clients
mkdir -p "$made"
skip() { echo "NOT checked: $*"; }

# ---- the servers ----
patience=90
wait_for_line() { wait_for said "$1" "$2" || complain "no '$2' in $1: $(cat "$1")"; } # FILE PATTERN
address() { sed -n "s/^[a-z]*: listening on //p" "$1" | head -n 1; }
start_coordinator() { # NAME OPTIONS...
  local name=$1
  shift
  : >"$name.out"
  "$diptych" coordinator --model "$tiny" --listen 127.0.0.1:0 "$@" >"$name.out" 2>"$name.err" &
  running+=($!)
  wait_for_line "$name.out" 'listening on'
}

printf 'plain:word-of-team-a team-a generate\nplain:word-of-team-b team-b generate\n' >tokens
"$diptych" up --model "$tiny" --listen 127.0.0.1:0 --threads 1 --diffusion 2 --log-level info >open.out 2>open.err &
running+=($!)
"$diptych" up --model "$tiny" --listen 127.0.0.1:0 --threads 1 --tokens "$work/tokens" --queue-max 1 --tenant-max 1 >guarded.out 2>guarded.err &
running+=($!)
wait_for_line open.out '^up: ready'
wait_for_line guarded.out '^up: ready'
start_coordinator empty
start_coordinator held --hold 600 --deadline 2
start_coordinator broken
start_coordinator leaving --hold 600 --grace 600
leaving=${running[-1]}

# One that is told to stop while somebody waits: it takes nothing more, and stays as long as that one does.
"$diptych" generate --server "$(address leaving.out)" --timeout 600 -o x.png dog >stay.out 2>stay.err &
running+=($!)
wait_for eval '"$diptych" status --server "$(address leaving.out)" --json | grep -q "\"queued\": 1"' || complain "nobody waits at the one that leaves"
kill -TERM "$leaving"

# Its one worker fails as it is asked to: python/rogue.py.
broken=-
has_python() { command -v grpc_python_plugin >/dev/null && /usr/bin/python3 -c 'import grpc, google.protobuf' 2>/dev/null; }
if has_python; then
  mkdir -p rogue
  python_stubs "$work/rogue" diptych/internal/v1/worker.proto diptych/v1/cluster.proto || complain "rogue: no stubs"
  PYTHONPATH=rogue /usr/bin/python3 "$root/tests/e2e/clients/python/rogue.py" "$(address broken.out)" >rogue.out 2>rogue.err &
  running+=($!)
  wait_for_line rogue.out here
  broken=$(address broken.out)
else
  skip "BUG, POISONED and WORKER_LOST: python3-grpcio, python3-protobuf or protobuf-compiler-grpc is missing"
fi
servers=("$(address open.out)" "$(address guarded.out)" "$(address empty.out)" "$broken" "$(address held.out)" "$(address leaving.out)")

# Two coordinators and a store: one leads.
standby=- leader=-
if command -v etcd >/dev/null; then
  store=http://127.0.0.1:$(free_port) peer=http://127.0.0.1:$(free_port)
  etcd --data-dir store --listen-client-urls "$store" --advertise-client-urls "$store" --listen-peer-urls "$peer" \
    --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer" >etcd.out 2>&1 &
  running+=($!)
  for name in first second; do start_coordinator $name --name $name --etcd "$store"; done
  until [ $SECONDS -gt 120 ]; do
    leader=$("$diptych" status --server "$(address first.out)" --json 2>/dev/null | field leader)
    [ -z "$leader" ] || break
  done
  standby=$(address first.out)
  [ "$leader" != "$standby" ] || standby=$(address second.out)
else
  skip "a coordinator that does not lead: etcd is missing"
fi
servers+=("$standby" "${leader:--}")
expected=$(sha --seed 5 --steps 4 dog)
sleep 4 # a coordinator that is new waits some seconds for its workers, before it refuses

# run_client NAME COMMAND...
run_client() {
  checks=$((checks + 1))
  timeout 240 "${@:2}" "${servers[@]}" "$expected" >"$1.out" 2>&1 || complain "$1: $(tail -n 20 "$1.out")"
  tail -n 1 "$1.out"
}

# run_example NAME COMMAND...: what docs/clients has, as a reader would run it
run_example() {
  checks=$((checks + 1))
  timeout 120 "${@:2}" "${servers[0]}" "a red circle" "$work/$1.png" >"$1.example" 2>&1 || complain "docs/clients/$1: $(tail -n 20 "$1.example")"
  [ "$(sha256sum <"$1.png" | cut -d ' ' -f 1)" = "$(sed -n 's/.*sha256 //p' "$1.example")" ] || complain "docs/clients/$1: not the file that was hashed: $(cat "$1.example")"
  [ -s "$1.png.preview-0.png" ] || complain "docs/clients/$1: no preview"
}

# Every reason has its line where clients look for it.
for reason in $(sed -n 's/^    X(\([A-Z_]*\), [A-Z_]*, [0-9]*, [A-Z]*).*/\1/p' "$root/proto/error.h"); do
  checks=$((checks + 1))
  grep -q "\`$reason\`" "$root/docs/clients/README.md" || complain "docs/clients/README.md does not know $reason"
done

# ---- Python ----
all_python_stubs() {
  # grpcio's own package is called grpc: the standard services go under other names.
  mkdir -p stubs side/health/v1 side/reflection/v1 side/reflection/v1alpha &&
    sed 's/^package .*//; s/^syntax.*/&\npackage grpc.health.v1;/' "$root/proto/grpc/health/v1/health.proto" >side/health/v1/health.proto &&
    for version in v1 v1alpha; do cp "$root/proto/grpc/reflection/$version/reflection.proto" side/reflection/$version/; done &&
    python_stubs "$work/stubs" diptych/v1/{cluster,image,model}.proto google/rpc/{code,error_details,status}.proto &&
    protoc -I side -I "$root/proto" --python_out=stubs --grpc_out=stubs \
      --plugin=protoc-gen-grpc="$(command -v grpc_python_plugin)" side/health/v1/*.proto side/reflection/*/*.proto
}
if has_python; then
  all_python_stubs || complain "python: no stubs"
  run_client python env PYTHONPATH=stubs /usr/bin/python3 "$root/tests/e2e/clients/python/client.py"
  for line in drawn painted request; do # W3C trace context: workers and coordinator write it down
    checks=$((checks + 1))
    grep -F "\"msg\": \"$line\"" open.err | grep -qF '"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"' || complain "no trace id in a line '$line'"
  done
  run_example python env PYTHONPATH=stubs /usr/bin/python3 "$root/docs/clients/python/generate.py"
else
  skip "Python: python3-grpcio, python3-protobuf or protobuf-compiler-grpc is missing"
fi

# Under a sanitizer the server is what is tested, and one client is enough for that.
[ "$(nm "$diptych" 2>/dev/null | grep -cE '__(asan|tsan|ubsan)_')" -gt 0 ] && { skip "Node and Go, under a sanitizer"; finish; exit; }

# ---- Node ----
if command -v node >/dev/null && command -v npm >/dev/null &&
  { [ -d "$made/node/node_modules/@grpc/grpc-js" ] ||
    { mkdir -p "$made/node" && cp "$root"/docs/clients/node/package*.json "$made/node/" &&
      npm ci --silent --no-audit --no-fund --prefix "$made/node" >npm.log 2>&1; }; }; then
  mkdir -p node && ln -sfn "$made/node/node_modules" node/node_modules
  cp "$root/tests/e2e/clients/node/client.mjs" "$root/docs/clients/node/generate.mjs" node/
  run_client node env PROTO="$root/proto" node node/client.mjs
  run_example node env PROTO="$root/proto" node node/generate.mjs
else
  skip "Node: node or npm is missing, or npm had no network: $(tail -n 3 npm.log 2>/dev/null)"
fi

# ---- Go ----
go_stubs() {
  local plugins=$made/go/bin options=() file
  [ -x "$plugins/protoc-gen-go-grpc" ] || {
    GOBIN=$plugins go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.31.0 &&
      GOBIN=$plugins go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.3.0
  } || return 1
  for file in image model cluster; do options+=("Mdiptych/v1/$file.proto=diptych.example/client/diptychv1"); done
  local joined
  joined=$(IFS=,; echo "${options[*]}")
  mkdir -p go && cp "$root"/docs/clients/go/go.* go/ && mkdir -p go/generate go/check &&
    cp "$root/docs/clients/go/generate.go" go/generate/ && cp "$root/tests/e2e/clients/go/client.go" go/check/ &&
    PATH=$plugins:$PATH protoc -I "$root/proto" --go_out="$work/go" --go_opt="module=diptych.example/client,$joined" \
      --go-grpc_out="$work/go" --go-grpc_opt="module=diptych.example/client,$joined" "$root"/proto/diptych/v1/*.proto &&
    (cd go && mkdir -p bin && GOTOOLCHAIN=local GOFLAGS=-buildvcs=false go build -o bin/ ./generate ./check)
}
if command -v go >/dev/null && go_stubs >go.log 2>&1; then
  run_client go "$work/go/bin/check"
  run_example go "$work/go/bin/generate"
else
  skip "Go: go is missing, or its modules could not be fetched: $(tail -n 5 go.log 2>/dev/null)"
fi
finish
