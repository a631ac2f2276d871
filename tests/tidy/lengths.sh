#!/usr/bin/env bash
# tests/tidy/lengths.sh - functions at most 70 lines (kernel bodies and flat tables aside), files at most 1000.
set -euo pipefail
command -v ctags >/dev/null || { echo "ctags is missing: install universal-ctags"; exit 1; }

sources=$(find base proto ops model engine cluster net worker coordinator cli -name '*.c' | sort)
long=$(echo "$sources" | ctags -L - --fields=+ne --kinds-C=f -f - 2>/dev/null | awk -F'\t' '
  { line = 0; end = 0
    for (i = 4; i <= NF; i++) { if ($i ~ /^line:/) line = substr($i, 6); if ($i ~ /^end:/) end = substr($i, 5) }
    if (line && end && end - line + 1 > 70) print $2 ":" line ": " $1 " has " end - line + 1 " lines, at most 70" }')
files=$(find base kernels proto ops model engine cluster net worker coordinator cli tests -name '*.[ch]' | xargs wc -l |
  awk '$2 != "total" && $1 > 1000 { print $2 ": " $1 " lines, at most 1000" }')
count=$(printf '%s\n%s\n' "$long" "$files" | grep -c . || true)
[ -z "$long" ] || echo "$long"
[ -z "$files" ] || echo "$files"
echo "lengths: $count violations"
[ "$count" -eq 0 ]
