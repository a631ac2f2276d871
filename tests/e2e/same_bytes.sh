#!/usr/bin/env bash
# tests/e2e/same_bytes.sh - a request's bytes do not depend on its company: alone, among 31 others, with one diffusion worker and with four, as in the embedded program.
. "$(dirname "$0")/common.bash"
cd "$work" || exit 1
ups=()
trap 'for pid in "${ups[@]}"; do kill -KILL "$pid" 2>/dev/null; done; rm -rf "$work"' EXIT
requests=32

# request I: leaves its words in $words
request() { words=(--seed $((100 + $1)) -n $(($1 % 4 + 1)) --steps $(($1 % 3 * 5 + 4)) "picture $1 of something"); }
hashes() { grep -oE '"images": .*' | grep -oE '"image_sha256": "[0-9a-f]+"' | tr '\n' ' '; }
remote() { "$diptych" generate --server "$server" --timeout 120 --json -o "$work/r$1.png" "${words[@]}" 2>"r$1.err" | hashes; }

# start_up NAME COUNT: with so many diffusion workers; leaves $up (process id) and $server
start_up() {
  local until=$((SECONDS + 60))
  "$diptych" up --model "$tiny" --listen 127.0.0.1:0 --threads 1 --diffusion "$2" >"$1.out" 2>"$1.err" &
  up=$!
  ups+=("$up")
  until grep -qs '^up: ready' "$1.out"; do
    [ $SECONDS -lt $until ] || { complain "$1 did not come up: $(cat "$1.out" "$1.err")"; break; }
    sleep 0.05
  done
  server=$(sed -n 's/^up: listening on //p' "$1.out" | head -n 1)
}

declare -a expected
for i in $(seq $requests); do
  request "$i"
  expected[i]=$("$diptych" generate --model "$tiny" --json -o e.png "${words[@]}" | hashes)
done
differ "two requests" "${expected[1]}" "${expected[5]}"

for count in 1 4; do
  start_up "with-$count" $count
  request 7
  same "alone, $count for diffusion" "${expected[7]}" "$(remote 7)"
  clients=()
  for i in $(seq $requests); do
    request "$i"
    remote "$i" >"hashes-$i" &
    clients+=("$!")
  done
  wait "${clients[@]}"
  for i in $(seq $requests); do
    same "request $i of $requests, $count for diffusion" "${expected[i]}" "$(cat "hashes-$i")"
    [ -s "hashes-$i" ] || cat "r$i.err"
  done
  kill -TERM "$up"
  wait "$up"
  same "$count for diffusion: exit status" 0 $?
done
finish
