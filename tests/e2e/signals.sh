#!/usr/bin/env bash
# tests/e2e/signals.sh - Ctrl-C and SIGTERM stop within a step, say so, and leave no file behind.
. "$(dirname "$0")/common.bash"
cd "$work" || exit 1

for signal in INT TERM HUP; do
  checks=$((checks + 1))
  # Bash starts background jobs with SIGINT ignored; a shell of its own gives it back.
  set -m
  "$diptych" generate --model "$tiny" --steps 1000 -n 64 -o out.png --trace trace x >stdout 2>stderr &
  pid=$!
  set +m
  sleep 0.3
  begin=$(date +%s%N)
  kill -$signal $pid
  wait $pid
  status=$?
  took_ms=$((($(date +%s%N) - begin) / 1000000))
  [ $status -eq 1 ] || complain "SIG$signal: exit $status"
  [ $took_ms -lt 2000 ] || complain "SIG$signal: took $took_ms ms"
  grep -q '^error: stopped' stderr || complain "SIG$signal: says '$(cat stderr)'"
  [ ! -e trace ] || complain "SIG$signal: left a trace file"
  [ -z "$(find . -name '*.tmp')" ] || complain "SIG$signal: left $(find . -name '*.tmp')"
  for file in *.png; do # pictures that were finished before are whole
    [ ! -e "$file" ] || tail -c 12 "$file" | grep -qa IEND || complain "SIG$signal: $file is cut"
  done
  rm -f ./*.png
done

# Told twice at once, as timeout(1) tells its child and then its group, is told once.
"$diptych" coordinator --model "$tiny" --listen 127.0.0.1:0 >stdout 2>stderr &
pid=$!
until grep -q listening stdout || ! kill -0 $pid 2>/dev/null; do sleep 0.02; done
kill -TERM $pid
sleep 0.02 # or the kernel makes one of them
kill -TERM $pid
wait $pid
same "told twice at once: exit status" 0 $?
grep -q '"stopped"' stderr || complain "told twice at once: $(cat stderr)"

# Who reads the log of a process that serves may go.
"$diptych" coordinator --model "$tiny" --listen 127.0.0.1:0 >stdout 2> >(head -n 1 >first) &
pid=$!
until grep -q listening stdout && [ -s first ] || ! kill -0 $pid 2>/dev/null; do sleep 0.02; done
sleep 0.1
kill -TERM $pid
wait $pid
same "nobody reads the log: exit status" 0 $?
finish
