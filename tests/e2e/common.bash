# tests/e2e/common.bash - what the end-to-end scripts share: a scratch folder, runs, expectations.
set -uo pipefail
diptych=${1:?usage: SCRIPT PROGRAM}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
tiny=$root/tests/golden/tiny-a/model
work=$(mktemp -d)
pids=() # of processes that must not outlive the script
trap 'for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null; done; rm -rf "$work"' EXIT
patience=60 # seconds until what should happen counts as not happening
failures=0
checks=0
unset "${!DIPTYCH_@}"

complain() { echo "FAILED: $*"; failures=$((failures + 1)); }

# finish: the script's exit status
finish() {
  echo "$checks checks, $failures failures"
  [ "$failures" -eq 0 ]
}

# field NAME: the first value of that name in the JSON object on standard input
field() { grep -oE "\"$1\": (\"[^\"]*\"|[^,}]*)" | head -n 1 | sed -E 's/^"[^"]*": //; s/^"//; s/"$//'; }

# sha ARGUMENTS...: the hash that generate reports for image 0 of the tiny model
sha() { "$diptych" generate --model "$tiny" --json -o "$work/sha.png" "$@" | field image_sha256; }

# same NAME EXPECTED FOUND
same() {
  checks=$((checks + 1))
  [ -n "$2" ] && [ "$2" = "$3" ] || complain "$1: expected $2, found $3"
}

# differ NAME ONE OTHER
differ() {
  checks=$((checks + 1))
  [ -n "$2" ] && [ -n "$3" ] && [ "$2" != "$3" ] || complain "$1: $2 and $3 should differ"
}

# refuses STATUS PATTERN COMMAND...: exits so, and says one "error:" line that matches
refuses() {
  local status=$1 pattern=$2 found
  shift 2
  checks=$((checks + 1))
  "$@" >"$work/stdout" 2>"$work/stderr" </dev/null
  found=$?
  [ "$found" -eq "$status" ] || complain "$*: exit $found, expected $status: $(cat "$work/stderr")"
  [ "$(grep -c '^error: ' "$work/stderr")" -eq 1 ] || complain "$*: not one error line: $(cat "$work/stderr")"
  grep -qE -- "$pattern" "$work/stderr" || complain "$*: says '$(cat "$work/stderr")', expected /$pattern/"
}

# wait_for COMMAND...: until it succeeds, $patience seconds at most
wait_for() {
  local until=$((SECONDS + patience))
  until "$@"; do
    [ $SECONDS -lt $until ] || return 1
    sleep 0.05
  done
}

# expect COMPLAINT COMMAND...: soon enough
expect() {
  local name=$1
  shift
  checks=$((checks + 1))
  wait_for "$@" || { complain "$name"; tail -n 5 ./*.err ./*.log 2>/dev/null; return 1; }
}

# said FILE PATTERN: it has been written there
said() { grep -qs -- "$2" "$1"; }

# page PORT PATH: what the process that serves its pages there answers
page() { { exec 3<>"/dev/tcp/127.0.0.1/$1" && printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&3 && cat <&3; } 2>/dev/null; }

free_port() {
  local port
  while port=$((20000 + RANDOM % 20000)) && (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
  echo "$port"
}

# python_stubs FOLDER PROTO...: what grpcio needs of the public .proto files, made by protoc
python_stubs() {
  (cd "$root/proto" && protoc -I . --python_out="$1" --grpc_out="$1" --plugin=protoc-gen-grpc="$(command -v grpc_python_plugin)" "${@:2}")
}

# accepts COMMAND...
accepts() {
  checks=$((checks + 1))
  "$@" >"$work/stdout" 2>"$work/stderr" </dev/null || complain "$*: exit $?: $(cat "$work/stderr")"
}
