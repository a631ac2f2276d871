#!/usr/bin/env bash
# tests/tidy/format.sh - clang-format decides the layout of every C and CUDA file.
set -euo pipefail
format=$(command -v clang-format-14 || command -v clang-format) || { echo "clang-format is missing"; exit 1; }
mapfile -t sources < <(find base kernels proto ops model engine cluster net worker coordinator cli tests -name '*.[ch]' -o -name '*.cu' -o -name '*.cpp')
"$format" --dry-run --Werror "${sources[@]}"
echo "format: ${#sources[@]} files"
