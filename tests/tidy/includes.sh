#!/usr/bin/env bash
# tests/tidy/includes.sh - the architecture as include rules: which folder may include which, and only front doors.
set -euo pipefail

# folder: folders whose headers it may include (itself is always allowed)
declare -A may=(
  [base]="" [kernels]="base" [proto]="base" [ops]="kernels base" [model]="ops base" [engine]="model ops base"
  [cluster]="proto base" [net]="base cluster" [worker]="engine cluster net proto base model ops"
  [coordinator]="cluster net proto base model" [cli]="coordinator worker engine cluster net proto base model ops"
)
# Narrower than folders: what a folder may take from another one.
declare -A only=(
  [coordinator/model]="model/tokenizer.h model/prompt.h model/config.h model/shard.h model/digest.h"
)
bad=0
complain() { echo "$1"; bad=$((bad + 1)); }

for folder in "${!may[@]}"; do
  [ -d "$folder" ] || continue
  while IFS=: read -r file line target; do
    from=${target%%/*}
    [ "$from" = "$folder" ] && continue
    case " ${may[$folder]} " in
      *" $from "*) ;;
      *) complain "$file:$line: $folder/ may not include $target (allowed: ${may[$folder]:-nothing of ours})"; continue ;;
    esac
    doors=${only[$folder/$from]:-}
    if [ -n "$doors" ] && [[ " $doors " != *" $target "* ]]; then
      complain "$file:$line: $folder/ may take only $doors from $from/, not $target"
    fi
  done < <(grep -RnoP --include='*.[ch]' '^\s*#\s*include\s+"\K[^"]+' "$folder" | sed -E 's/^([^:]+):([0-9]+):/\1:\2:/')
done

# Headers are included by their path from the root, so that a stranger can find them.
while IFS= read -r hit; do complain "$hit: include by path from the project's root"; done < <(
  grep -RnP --include='*.[ch]' '^\s*#\s*include\s+"(?!(base|kernels|proto|ops|model|engine|cluster|net|worker|coordinator|cli|tests)/)' \
    base kernels ops model engine cluster net worker coordinator cli tests | cut -d: -f1,2)

echo "includes: $bad violations"
[ "$bad" -eq 0 ]
