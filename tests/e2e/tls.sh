#!/usr/bin/env bash
# tests/e2e/tls.sh - a cluster of daemons over mutual TLS: the bytes of the embedded program, strangers and plaintext refused in words, certificates replaced while it runs, tokens on top.
. "$(dirname "$0")/common.bash"
cd "$work" || exit 1
command -v openssl >/dev/null || { echo "openssl is missing"; exit 1; }

# authority NAME: leaves NAME.pem and NAME.key, who signs
authority() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=$1" \
    -keyout "$1.key" -out "$1.pem" >>openssl.out 2>&1 || complain "openssl: $(cat openssl.out)"
}

# certify NAME AUTHORITY ALTERNATIVE_NAMES: leaves NAME.pem and NAME.key; both replace what was there at once
certify() {
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" \
    -keyout "$1.key.new" -out "$1.csr" >>openssl.out 2>&1 &&
    openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -CAcreateserial -days 30 \
      -extfile <(echo "subjectAltName=$3") -out "$1.pem.new" >>openssl.out 2>&1 || complain "openssl: $(cat openssl.out)"
  mv "$1.key.new" "$1.key"
  mv "$1.pem.new" "$1.pem"
}

own=IP:127.0.0.1,DNS:localhost
authority root
authority stranger
certify server root $own
certify worker root $own
certify client root DNS:client
certify intruder stranger $own
certify named root DNS:cluster.test

# daemon NAME WORDS...: leaves $pid
daemon() {
  local name=$1
  shift
  "$diptych" "$@" --model "$tiny" --name "$name" --listen 127.0.0.1:0 --log-format text >"$name.out" 2>"$name.log" &
  pid=$!
  pids+=("$pid")
  wait_for grep -qs "listening on" "$name.out" || complain "$name did not start: $(cat "$name.log")"
}
# coordinator NAME CERTIFICATE WORDS...: leaves $server
coordinator() {
  local name=$1 certificate=$2
  shift 2
  daemon "$name" coordinator --tls-cert "$certificate.pem" --tls-key "$certificate.key" --tls-ca root.pem "$@"
  server=$(sed -n 's/^coordinator: listening on //p' "$name.out" | head -n 1)
}
# worker NAME ROLE WORDS...: with $worker's certificate
worker=worker
worker() {
  local name=$1 role=$2
  shift 2
  daemon "$name" worker --role "$role" --threads 1 --server "$server" --tls-cert $worker.pem --tls-key $worker.key --tls-ca root.pem "$@"
}
us=(--tls-ca root.pem --tls-cert client.pem --tls-key client.key)
shows() { "$diptych" status --server "$server" "${us[@]}" 2>/dev/null | grep -qE "$1"; }
ask() { timeout $patience "$diptych" generate --server "$server" --timeout 30 -o r.png "$@"; }
hashes() { grep -oE '"images": .*' | grep -oE '"image_sha256": "[0-9a-f]+"' | tr '\n' ' '; }
remote() { ask --timeout $patience --json "${us[@]}" "$@" 2>remote.err | hashes; }
embedded() { "$diptych" generate --model "$tiny" --json -o e.png "$@" | hashes; }

# ---- plaintext beyond this machine is for those who ask for it ----
refuses 2 '^error: 0\.0\.0\.0:0 .*--insecure' "$diptych" coordinator --model "$tiny" --listen 0.0.0.0:0
refuses 2 '^error: 0\.0\.0\.0:0 .*--insecure' "$diptych" worker --model "$tiny" --listen 0.0.0.0:0
refuses 2 '^error: \[::\]:0 .*--insecure' "$diptych" worker --model "$tiny" --listen '[::]:0'
refuses 2 '^error: 127\.somewhere\.else:0 .*--insecure' "$diptych" worker --model "$tiny" --listen 127.somewhere.else:0
refuses 2 'group-address 10\.9\.8\.7 .*--insecure' "$diptych" worker --model "$tiny" --role ar --ar-rank --group-address 10.9.8.7
"$diptych" worker --model "$tiny" --role ar --listen 0.0.0.0:0 --insecure >open-worker.out 2>open.log &
pids+=("$!")
expect "a worker with --insecure does not listen" grep -q "listening on" open-worker.out
end_last() { kill -KILL "${pids[-1]}"; wait "${pids[-1]}" 2>/dev/null; unset 'pids[-1]'; }
end_last
"$diptych" worker --model "$tiny" --role ar --ar-rank --listen 0.0.0.0:0 --tls-cert worker.pem --tls-key worker.key --tls-ca root.pem --group-address 10.9.8.7 >closed.out 2>closed.log &
pids+=("$!")
expect "a worker with TLS does not listen" grep -q "listening on" closed.out
expect "a worker with TLS does not say what stays open" grep -q "is not encrypted" closed.log
end_last
(ulimit -Sn 256 && exec "$diptych" coordinator --model "$tiny" --listen 0.0.0.0:0 --insecure >open.out 2>open.log) &
pids+=("$!")
expect "--insecure does not listen" grep -q "listening on" open.out
same "open files: the soft limit is raised to the hard one" "$(ulimit -Hn)" "$(awk '/^Max open files/ {print $4}' /proc/$!/limits)"
end_last
refuses 2 'needs --tls-key' "$diptych" coordinator --model "$tiny" --listen 127.0.0.1:0 --tls-cert server.pem
refuses 1 'missing\.pem' "$diptych" coordinator --model "$tiny" --listen 127.0.0.1:0 --tls-cert missing.pem --tls-key server.key
refuses 2 'server\.pem|client\.key' "$diptych" coordinator --model "$tiny" --listen 127.0.0.1:0 --tls-cert server.pem --tls-key client.key

# ---- three workers, everybody with a certificate: the same bytes ----
coordinator front server
front=$pid
worker left ar
worker right diffusion
worker third diffusion
for member in left right third; do expect "$member is not ready" shows "^$member .* ready"; done
for arguments in "--seed 5 dog" "--seed 6 -n 4 cat"; do
  # shellcheck disable=SC2086  # words
  same "over TLS and embedded: $arguments" "$(embedded $arguments)" "$(remote $arguments)"
done
cmp -s r.png e.png || complain "the files differ"

# ---- those who do not belong: an answer in words, and soon ----
# advises WORDS COMMAND...: refuses with status 3, and this is in the line below the error
advises() {
  local words=$1
  shift
  refuses 3 'cannot reach a coordinator at 127' "$@"
  grep -q "^  fix: .*$words" stderr || complain "$*: says '$(cat stderr)', expected $words"
}
advises 'asks for a certificate, give --tls-cert' ask --tls-ca root.pem x
advises 'must lead to a root that it trusts' ask --tls-ca root.pem --tls-cert intruder.pem --tls-key intruder.key x
advises 'must lead to a root in --tls-ca' ask --tls-ca stranger.pem --tls-cert client.pem --tls-key client.key x
advises 'or that of --tls-name' ask "${us[@]}" --tls-name elsewhere.test x
advises 'if it wants TLS, give --tls-ca' ask x
refuses 2 'needs --tls-ca' ask --tls-cert client.pem --tls-key client.key x
advises 'if it wants TLS, give --tls-ca' timeout $patience "$diptych" status --server "$server"
accepts ask "${us[@]}" x

# A worker that does not belong stays outside, and says why.
daemon stray worker --role diffusion --threads 1 --server "$server" --tls-cert intruder.pem --tls-key intruder.key --tls-ca root.pem
expect "the stray worker says nothing" grep -q "no stream to the coordinator" stray.log
daemon naked worker --role diffusion --threads 1 --server "$server"
expect "the naked worker says nothing" grep -q "no stream to the coordinator" naked.log
checks=$((checks + 1))
! shows "^(stray|naked) " || complain "a stranger is a member"
end_last
end_last

# ---- new certificates for processes that run on ----
serial() { openssl s_client -connect "$server" -CAfile root.pem -cert client.pem -key client.key </dev/null 2>/dev/null | openssl x509 -noout -serial 2>/dev/null; }
old=$(serial)
certify server root $own
certify worker root $own
renewed() { local now; now=$(serial) && [ -n "$now" ] && [ "$now" != "$old" ]; }
expect "the new certificate is not shown" renewed
differ "serial numbers" "$old" "$(serial)"
same "after a renewal" "$(embedded --seed 7 fox)" "$(remote --seed 7 fox)"
worker late diffusion
expect "late is not ready" shows "^late .* ready"
checks=$((checks + 1))
kill -0 "$front" || complain "the coordinator is gone"

# ---- TLS says who may connect, tokens who may do what ----
printf 'plain:word-of-team-a team-a generate\nplain:word-of-the-operators ops read,admin\nplain:word-of-workers crew worker\n' >tokens
coordinator guarded server --tokens tokens
worker near ar --token word-of-workers
echo word-of-workers >secret
worker far diffusion --token-file "$work/secret"
guarded_shows() { "$diptych" status --server "$server" "${us[@]}" --token word-of-the-operators 2>/dev/null | grep -qE "$1"; }
for member in near far; do expect "$member is not ready" guarded_shows "^$member .* ready"; done
refuses 3 'NO_CREDENTIAL' ask "${us[@]}" x
refuses 3 'BAD_CREDENTIAL' ask "${us[@]}" --token guessed-by-a-stranger x
refuses 3 'ROLE_REQUIRED' ask "${us[@]}" --token word-of-the-operators x
refuses 3 'ROLE_REQUIRED' "$diptych" drain --server "$server" "${us[@]}" --token word-of-team-a far
advises 'asks for a certificate' ask --tls-ca root.pem --token word-of-team-a x
same "with a token" "$(embedded --seed 8 owl)" "$(remote --seed 8 --token word-of-team-a owl)"
worker guest diffusion --token word-of-team-a
expect "a client's token for a worker" grep -qE "PERMISSION_DENIED|ROLE_REQUIRED|scope" guest.log
checks=$((checks + 1))
! guarded_shows "^guest " || complain "a client's token made a worker"

# ---- one name in all certificates instead of many addresses ----
coordinator fourth named
worker=named
worker ours ar --tls-name cluster.test
worker yours diffusion --tls-name cluster.test
us+=(--tls-name cluster.test)
for member in ours yours; do expect "$member is not ready" shows "^$member .* ready"; done
same "with --tls-name" "$(embedded --seed 9 elk)" "$(remote --seed 9 elk)"

# ---- a client with TLS and a coordinator without ----
daemon plain coordinator
server=$(sed -n 's/^coordinator: listening on //p' plain.out | head -n 1)
advises 'seems to speak plaintext' ask --tls-ca root.pem x

# ---- clean exits ----
for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null; done
all_gone() { for pid in "${pids[@]}"; do ! kill -0 "$pid" 2>/dev/null || return 1; done; }
expect "somebody stays" all_gone
checks=$((checks + 1))
! grep -lE 'Sanitizer|runtime error' ./*.log || complain "$(cat ./*.log)"
finish
