#!/usr/bin/env bash
# tests/e2e/image.sh - the file tree of the CPU image, run as a strict container would: what is in it, whose it is, that it starts, paints, serves and ends. PROGRAM [ROOT: a tree that is there already]
. "$(dirname "$0")/common.bash"
cd "$root" || exit 1
if [ "$(nm "$diptych" 2>/dev/null | grep -cE '__(asan|tsan|ubsan)_')" -gt 0 ]; then
  echo "image: only the plain build goes into an image"
  exit 0
fi
containers=()
trap 'for pid in "${containers[@]}"; do kill -KILL "$pid" 2>/dev/null; done; rm -rf "$work"' EXIT
known=33d13406c07efb1fcc9a632f6af25615a67f21f3a65d6e7cb6d024edd43ca14e # --seed 7 "a red circle", of the demo model

# expect NAME COMMAND...: it succeeds
expect() {
  local name=$1
  shift
  checks=$((checks + 1))
  "$@" >"$work/said" 2>&1 || complain "$name: $(head -c 2000 "$work/said")"
}

# nothing NAME COMMAND...: it prints nothing
nothing() {
  local name=$1 found
  shift
  checks=$((checks + 1))
  found=$("$@" 2>&1)
  [ -z "$found" ] || complain "$name: $found"
}

# soon COMMAND...: it succeeds within a minute
soon() {
  local until=$((SECONDS + 60))
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $until ] || return 1
    sleep 0.05
  done
}

# ---- the tree ----
image=$(realpath -m "${2:-$work/image}")
if [ -z "${2:-}" ]; then
  expect "build-root" tools/image/build-root --build "$(dirname "$diptych")" "$image"
  grep '^image:' "$work/said"
fi
nothing "set-user-id, set-group-id" find "$image" -perm /6000
nothing "writable by others" find "$image" -perm /0022 ! -type l ! -path "$image/tmp"
nothing "not root's" find "$image" ! -user "$(id -un)"
nothing "neither file, folder nor link" find "$image" ! -type f ! -type d ! -type l
nothing "links that lead nowhere" bash -c 'cd "$1" && find . -type l | while read -r link; do [ -e "$(readlink -m "$link" | sed "s,^/etc/,$1/etc/,")" ] || echo "$link"; done' x "$image"
same "mode of /tmp" 1777 "$(stat -c %a "$image/tmp")"
same "what can be run" "/usr/bin/diptych " "$(find "$image" -type f -perm /0111 ! -path '*/usr/lib/*' ! -path '*/usr/lib64/*' | sed "s,^$image,," | tr '\n' ' ')"
nothing "shells and tools" find "$image" -name 'sh' -o -name '*bash*' -o -name 'dash' -o -name 'busybox*' -o -name 'apt*' -o -name 'python*' -o -name 'perl*' -o -name '*.py'
nothing "headers, static libraries, debugging symbols" find "$image" -name '*.h' -o -name '*.a' -o -name '*.debug'
same "sections for debuggers" 0 "$(readelf -SW "$image/usr/bin/diptych" | grep -c '\.debug_info')"
same "user 65532" "diptych:x:65532:65532" "$(sed -n 2p "$image/etc/passwd" | cut -d: -f1-4)"
same "the chart's user" "65532 65532" "$(sed -nE 's/^ *runAs(User|Group): //p' helm/diptych/values.yaml | tr '\n' ' ' | sed 's/ $//')"
same "the Dockerfile's user" "65532:65532" "$(sed -n 's/^USER //p' Dockerfile | sort -u)"
for package in $(ls "$image/var/lib/dpkg/status.d"); do
  [ -s "$image/usr/share/doc/$package/copyright" ] || complain "$package has no terms"
done
bytes() { du -s --apparent-size -B 1 "$@" | awk '{ s += $1 } END { print s }'; }
lean=$(($(bytes "$image") - $(bytes "$image/usr/share/diptych/models")))
checks=$((checks + 1))
[ $lean -lt 150000000 ] || complain "without weights it has $lean bytes, more than 150 MB"
echo "image: $lean bytes without weights"
expect "bill of materials" python3 tests/e2e/sbom_check.py "$image"

# ---- one container ----
run() { tools/image/run-root "$image" "$@"; }
if ! run /usr/bin/diptych --version >"$work/said" 2>&1 && grep -q 'Operation not permitted' "$work/said"; then
  echo "NOT checked: nothing was run, for this needs root or user namespaces open to everybody: $(cat "$work/said")"
  finish
  exit
fi
same "version" "$("$diptych" --version)" "$(run /usr/bin/diptych --version)"
loader=$(find "$image/usr/lib64" "$image/usr/lib" -name 'ld-linux-*' | head -n 1)
expect "libraries" run "${loader#"$image"}" --list /usr/bin/diptych
same "libraries that are missing" 0 "$(grep -c 'not found' "$work/said")"
expect "doctor" run /usr/bin/diptych doctor
grep -q '^verdict: this machine is ready' "$work/said" || complain "doctor: $(cat "$work/said")"
same "a picture" "$known" "$(run /usr/bin/diptych generate --json --seed 7 "a red circle" 2>"$work/said" | field image_sha256)"
same "the same outside" "$known" "$("$diptych" generate --json --seed 7 -o "$work/a.png" "a red circle" | field image_sha256)"
for folder in / /usr /etc /usr/share/diptych/models /dev; do
  refuses 1 'read-only|permission' run /usr/bin/diptych generate -o "$folder/out.png" x
done

# ---- clusters: `up` in one container, then a coordinator and a worker in one each ----

# start NAME PATTERN WORDS...: a container in the background, until it has said so; leaves $pid (of run-root)
start() {
  local name=$1 pattern=$2
  shift 2
  tools/image/run-root "$image" /usr/bin/diptych "$@" >"$work/$name.out" 2>"$work/$name.err" &
  pid=$!
  containers+=("$pid")
  soon grep -qE "$pattern" "$work/$name.out" || complain "$name did not start: $(cat "$work/$name.out" "$work/$name.err")"
}

# end NAME PID: SIGTERM, and the exit status is 0
end() {
  kill -TERM "$2"
  wait "$2"
  same "$1: exit status after SIGTERM" 0 $?
}

said() { sed -nE "s/^.*$2//p" "$work/$1.out" | head -n 1; }
get() { exec 3<>"/dev/tcp/127.0.0.1/$1" && printf 'GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' "$2" >&3 && head -n 1 <&3; }
is_ready() { get "$1" /readyz | grep -q '^HTTP/1.1 200'; }
remote() { run /usr/bin/diptych generate --server "$1" --json --seed 7 "a red circle" 2>>"$work/remote.err" | field image_sha256; }

start up '^up: ready' up --listen 127.0.0.1:0 --http 127.0.0.1:0 --diffusion 2
init=$(pgrep -P "$pid")
status() { sed -n "s/^$1:\s*//p" "/proc/$2/status" | tr '\t' ' '; }
for process in $init $(pgrep -P "$init") $(pgrep -P "$(pgrep -P "$init")"); do
  same "user of process $process" "65532 65532 65532 65532" "$(status Uid "$process")"
  same "group of process $process" "65532 65532 65532 65532" "$(status Gid "$process")"
  same "capabilities of process $process" "0 " "$(for set in Inh Prm Eff Bnd Amb; do status Cap$set "$process"; done | sed 's/^0*/0/' | sort -u | tr '\n' ' ')"
  same "no_new_privs of process $process" 1 "$(status NoNewPrivs "$process")"
done
same "process 1" 1 "$(status NSpid "$init" | awk '{ print $NF }')"
expect "/readyz" soon is_ready "$(said up 'metrics on port ')"
same "the cluster's picture" "$known" "$(remote "$(said up 'listening on ')")"
zombies() { for process in $(pgrep -P "$init"); do [ "$(status State "$process" | cut -c 1)" != Z ] || echo "$process"; done; }
if [ "$(id -u)" -eq 0 ]; then # an orphan whom process 1 adopts
  nsenter --target "$init" --pid bash -c 'sleep 0.2 & exit 0'
  checks=$((checks + 1))
  adopted() { pgrep -P "$init" -x sleep; }
  soon adopted || complain "process 1 did not adopt the orphan"
  sleep 0.4
  nothing "the orphan lies about, dead" zombies
else
  echo "NOT checked: orphans, for only root may put one into the container"
fi
end up "$pid"

start lone '^up: ready' up --listen 127.0.0.1:0
kill -KILL "$(pgrep -P "$(pgrep -P "$pid")")"
wait "$pid"
same "exit status when the program is killed" 137 $?

start coordinator 'listening on' coordinator --listen 127.0.0.1:0 --http 127.0.0.1:0
coordinator=$pid
server=$(said coordinator 'listening on ')
start worker 'listening on|ready|connected' worker --role both --server "$server" --listen 127.0.0.1:0
worker=$pid
port=$(said coordinator 'metrics on port ')
expect "/readyz of the coordinator" soon is_ready "$port"
same "its picture" "$known" "$(remote "$server")"
end coordinator "$coordinator"
end worker "$worker"
nothing "what they complained of" grep -hE '^(error|warning)|Permission|Read-only|assert' "$work"/{up,coordinator,worker}.{out,err}
finish
