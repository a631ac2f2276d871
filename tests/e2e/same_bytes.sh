#!/usr/bin/env bash
# tests/e2e/same_bytes.sh - a request's bytes do not depend on its company: alone, among 31 others, with one diffusion worker whose steps they share and with four, as in the embedded program.
. "$(dirname "$0")/common.bash"
cd "$work" || exit 1
ups=()
trap 'for pid in "${ups[@]}"; do kill -KILL "$pid" 2>/dev/null; done; rm -rf "$work"' EXIT
requests=32

# request I: leaves its words in $words
request() { words=(--seed $((100 + $1)) -n $(($1 % 4 + 1)) --steps $(($1 % 3 * 5 + 4)) "picture $1 of something"); }
hashes() { grep -oE '"images": .*' | grep -oE '"image_sha256": "[0-9a-f]+"' | tr '\n' ' '; }
remote() { "$diptych" generate --server "$server" --timeout 120 --json -o "$work/r$1.png" "${words[@]}" 2>"r$1.err" | hashes; }

# start_up NAME COUNT SLOTS: with so many diffusion workers of so many slots; leaves $up (process id), $server and $port, of its pages
start_up() {
  local until=$((SECONDS + 60))
  "$diptych" up --model "$tiny" --listen 127.0.0.1:0 --http 127.0.0.1:0 --threads 1 --diffusion "$2" --diffusion-slots "$3" >"$1.out" 2>"$1.err" &
  up=$!
  ups+=("$up")
  until grep -qs '^up: ready' "$1.out"; do
    [ $SECONDS -lt $until ] || { complain "$1 did not come up: $(cat "$1.out" "$1.err")"; break; }
    sleep 0.05
  done
  server=$(sed -n 's/^up: listening on //p' "$1.out" | head -n 1)
  port=$(sed -n 's/^up: metrics on port //p' "$1.out")
}

declare -a expected
for i in $(seq $requests); do
  request "$i"
  expected[i]=$("$diptych" generate --model "$tiny" --json -o e.png "${words[@]}" | hashes)
done
differ "two requests" "${expected[1]}" "${expected[5]}"

for count in 1 4; do
  start_up "with-$count" $count $((5 - count)) # four slots on one worker, or one on four
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
  sleep 0.6 # a page is at most half a second old
  shared=$(exec 3<>"/dev/tcp/127.0.0.1/$port" && printf 'GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' >&3 && sed -n 's/^diptych_diffusion_shared_steps_total \([0-9]*\).*/\1/p' <&3)
  checks=$((checks + 1))
  [ $((${shared:-0} > 0)) -eq $((count == 1)) ] || complain "$count for diffusion: ${shared:-no} steps were shared"
  echo "$count for diffusion: $shared steps shared"
  kill -TERM "$up"
  wait "$up"
  same "$count for diffusion: exit status" 0 $?
done
finish
