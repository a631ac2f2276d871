#!/usr/bin/env bash
# tests/tidy/words.sh - banned functions, misplaced threads, clocks and environment, unfinished marks, first lines.
set -euo pipefail

sources=$(find base kernels proto ops model engine cluster net worker coordinator cli tests -name '*.c' -o -name '*.h' -o -name '*.cu' | sort)
bad=0
# forbid REASON PATTERN [GREP-V-PATTERN for files where it is at home]
forbid() {
  local hits
  hits=$(echo "$sources" | grep -vE "${3:-^$}" | xargs grep -nP "$2" | head -20 || true)
  [ -z "$hits" ] && return 0
  echo "$hits" | sed "s|^|$1: |"
  bad=$((bad + $(echo "$hits" | wc -l)))
}

forbid "banned function" '(?<![A-Za-z0-9_.>])(strcpy|strcat|sprintf|vsprintf|strtok|atoi|atol|atof|rand|srand|gets|alloca)\s*\('
forbid "environment outside cli/" '(?<![A-Za-z0-9_])(secure_)?getenv\s*\(' '^(cli|tests)/'
forbid "clock or entropy outside base/" '(?<![A-Za-z0-9_])(clock_gettime|gettimeofday|time|getrandom|nanosleep)\s*\(' '^(base|tests)/'
forbid "mutex or atomic outside base/" '(pthread_mutex_|pthread_cond_|_Atomic|atomic_(load|store|fetch|init))' '^(base|tests)/'
forbid "unfinished mark" '\b(TODO|FIXME|XXX|HACK)\b'
forbid "line over 100 columns" '^.{101,}$'
forbid "struct typedef" '^\s*typedef\s+(struct|enum|union)\b(?!.*\(\*)' '^tests/cuda_emulator/' # NVIDIA's names

# Line one of every file: its path, a dash, what it is.
for file in $sources; do
  head -n 1 "$file" | grep -qF "/* $file - " || { echo "$file: line one is not \"/* $file - what it is\""; bad=$((bad + 1)); }
done

echo "words: $bad violations"
[ "$bad" -eq 0 ]
