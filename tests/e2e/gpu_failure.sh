#!/usr/bin/env bash
# tests/e2e/gpu_failure.sh - a GPU that breaks in the middle of a picture: its worker says so in CUDA's words and goes, and the
# picture is finished by another one with the same bytes. On emulated GPUs.
. "$(dirname "$0")/common.bash"
cd "$work" || exit 1
gpu=(--backend cuda --cuda-plugin "$(dirname "$diptych")/emulated/libdiptych-cuda.so" --precision f32)
expected=$(sha "${gpu[@]}" --seed 5 --steps 25 dog)

"$diptych" coordinator --model "$tiny" --listen 127.0.0.1:0 >c.out 2>c.err &
pids+=($!)
expect "no coordinator" said c.out 'listening on'
server=$(sed -n "s/^coordinator: listening on //p" c.out | head -n 1)
start() { # NAME
  "$diptych" worker --model "$tiny" --server "$server" --role both --name "$1" "${gpu[@]}" >"$1.out" 2>"$1.err" &
  pids+=($!)
  expect "$1 is not ready" eval "'$diptych' status --server '$server' | grep -qE '^$1 .* ready'"
}
DIPTYCH_EMULATED_BREAKS=$work/omen start frail
frail=${pids[-1]}
"$diptych" generate --server "$server" --timeout 120 --json -o g.png --seed 5 --steps 25 dog >g.json 2>g.err &
client=$!
expect "nothing was drawn" said frail.err '"drawn"'
start sound
same "nothing is painted yet" 0 "$(grep -c '"painted"' frail.err)"
touch omen

wait "$client"
same "the client's status" 0 $?
same "the picture" "$expected" "$(field image_sha256 <g.json)"
expect "the other worker did not paint" said sound.err '"painted"'
expect "the broken worker stays" eval "! kill -0 $frail 2>/dev/null"
expect "it does not say why" said frail.err 'GPU 0: .*illegal memory access'
same "nobody else has left" 1 "$("$diptych" status --server "$server" | grep -cE '^(frail|sound) .* ready')"
finish
