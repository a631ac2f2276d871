#!/usr/bin/env bash
# tests/tidy/clang_tidy.sh - clang-tidy with the checks of .clang-tidy; needs the build folder's compile_commands.json.
set -euo pipefail
build=${1:?usage: clang_tidy.sh BUILD_FOLDER}
tidy=$(command -v clang-tidy-14 || command -v clang-tidy) || { echo "clang-tidy is missing"; exit 1; }
status=0
said=$(find base kernels ops model engine cluster net worker coordinator cli proto -name '*.c' | sort |
  xargs -P 2 -n 6 "$tidy" --quiet -p "$build" --warnings-as-errors='*' 2>&1) || status=1
grep -vE '^[0-9]+ warnings? generated|^Suppressed |^Use -header-filter' <<<"$said" || true
[ "$status" -eq 0 ]
echo "clang-tidy: clean"
