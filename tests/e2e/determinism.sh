#!/usr/bin/env bash
# tests/e2e/determinism.sh - same request, same bytes: whatever the threads, the neighbours, previews and traces.
. "$(dirname "$0")/common.bash"

check_model() {
  local tiny=$1 alone i found size
  "$diptych" inspect --model "$tiny" --json >"$work/model.json"
  size=$(($(field width <"$work/model.json") / 2))x$(field height <"$work/model.json")
  alone=$(sha --seed 11 "a red circle")
  for threads in 1 2 5; do
    same "$tiny threads $threads" "$alone" "$(sha --seed 11 --threads $threads "a red circle")"
  done
  same "$tiny again" "$alone" "$(sha --seed 11 "a red circle")"
  same "$tiny previews" "$alone" "$(sha --seed 11 --previews "$work/previews" --preview-kind decoded "a red circle")"
  same "$tiny trace" "$alone" "$(sha --seed 11 --trace "$work/trace" "a red circle")"
  same "$tiny progress" "$alone" "$(sha --seed 11 --progress always "a red circle" 2>/dev/null)"

  # Image i does not depend on how many there are; image 0 is that of -n 1.
  "$diptych" generate --model "$tiny" --seed 11 -n 4 -o "$work/four.png" "a red circle" >/dev/null || complain "-n 4"
  "$diptych" generate --model "$tiny" --seed 11 -n 17 --threads 1 -o "$work/many.png" "a red circle" >/dev/null || complain "-n 17"
  same "$tiny image 0 of 4" "$alone" "$(sha256sum <"$work/four-0.png" | cut -d' ' -f1)"
  for i in 0 1 2 3; do
    found=$(sha256sum <"$work/many-$i.png" | cut -d' ' -f1)
    same "$tiny image $i of 17" "$(sha256sum <"$work/four-$i.png" | cut -d' ' -f1)" "$found"
  done
  differ "$tiny images 0 and 1" "$(sha256sum <"$work/four-0.png")" "$(sha256sum <"$work/four-1.png")"

  # What should change the picture does.
  differ "$tiny seed" "$alone" "$(sha --seed 12 "a red circle")"
  differ "$tiny prompt" "$alone" "$(sha --seed 11 "a blue square")"
  differ "$tiny steps" "$alone" "$(sha --seed 11 --steps 3 "a red circle")"
  differ "$tiny guidance" "$alone" "$(sha --seed 11 --guidance 1.25 "a red circle")"
  differ "$tiny sampler" "$alone" "$(sha --seed 11 --sampler dpm++ "a red circle")"
  differ "$tiny size" "$alone" "$(sha --seed 11 --size "$size" "a red circle")"
  # Values given that equal the model's own change nothing.
  same "$tiny default guidance" "$alone" "$(sha --seed 11 --guidance "$(field guidance <"$work/model.json")" "a red circle")"

  # The reported seed reproduces the picture.
  "$diptych" generate --model "$tiny" --json -o "$work/drawn.png" "a red circle" >"$work/drawn.json" || complain "no seed"
  same "$tiny reported seed" "$(field image_sha256 <"$work/drawn.json")" "$(sha --seed "$(field seed <"$work/drawn.json")" "a red circle")"
  same "$tiny expected hash" "$alone" "$(sha --seed 11 --expect "$alone" "a red circle")"
  same "$tiny expected file" "$alone" "$(sha --seed 11 --expect "$work/four-0.png" "a red circle")"
  refuses 1 "SHA-256 is $alone; --expect says" "$diptych" generate --model "$tiny" --seed 11 --expect "$work/four-1.png" -o "$work/other.png" "a red circle"
  same "$tiny reported hash" "$(field image_sha256 <"$work/drawn.json")" "$(sha256sum <"$work/drawn.png" | cut -d' ' -f1)"
}

check_model "$tiny"
[ -f "$root/models/demo/config.json" ] && check_model "$root/models/demo"
finish
