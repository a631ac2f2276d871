#!/usr/bin/env bash
# tests/tidy/cppcheck.sh - cppcheck over everything that is built.
set -euo pipefail
command -v cppcheck >/dev/null || { echo "cppcheck is missing"; exit 1; }
# A message on its way out points at parts on the stack of who encodes it: they live until it is bytes.
cppcheck --quiet --std=c11 --language=c --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
  --suppress=missingIncludeSystem --suppress=unknownMacro --suppress=autoVariables:cluster/wire_command.c \
  --suppress=autoVariables:cluster/wire_event.c -D_GNU_SOURCE -DDIP_VERSION='"0"' -DDIP_PROGRAM='""' -I . -j 2 \
  base kernels proto ops model engine cluster net worker coordinator cli
echo "cppcheck: clean"
