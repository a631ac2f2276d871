#!/usr/bin/env bash
# tests/tidy/cppcheck.sh - cppcheck over everything that is built.
set -euo pipefail
command -v cppcheck >/dev/null || { echo "cppcheck is missing"; exit 1; }
cppcheck --quiet --std=c11 --language=c --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
  --suppress=missingIncludeSystem --suppress=unknownMacro -D_GNU_SOURCE -DDIP_VERSION='"0"' -DDIP_PROGRAM='""' -I . -j 2 \
  base kernels proto ops model engine cluster net worker coordinator cli
echo "cppcheck: clean"
