# tests/e2e/common.bash - what the end-to-end scripts share: a scratch folder, runs, expectations.
set -uo pipefail
diptych=${1:?usage: SCRIPT PROGRAM}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
tiny=$root/tests/golden/tiny-a/model
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
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

# accepts COMMAND...
accepts() {
  checks=$((checks + 1))
  "$@" >"$work/stdout" 2>"$work/stderr" </dev/null || complain "$*: exit $?: $(cat "$work/stderr")"
}
