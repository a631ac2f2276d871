#!/usr/bin/env bash
# tests/e2e/model_verify.sh - `model verify` as an init step: a whole model passes, and each way in which a download can be wrong fails with one sentence.
. "$(dirname "$0")/common.bash"
cd "$work" || exit 1
good=$work/good
cp -rL "$tiny" good
verify=("$diptych" model verify --model)

digest=$("$diptych" inspect --model good --json | field model_sha256)
accepts "${verify[@]}" good
grep -qx "digest $digest" stdout || complain "not inspect's digest: $(cat stdout)"
accepts "${verify[@]}" good --digest "sha256:${digest^^}"
accepts env DIPTYCH_MODEL=good DIPTYCH_DIGEST="$digest" "$diptych" model verify
same "--json's digest" "$digest" "$("${verify[@]}" good --json | field digest)"
refuses 1 "another model: its digest is $digest" "${verify[@]}" good --digest "$(printf '0%.0s' {1..64})"
refuses 2 '--digest is "abc"; it must be 64 hex digits' "${verify[@]}" good --digest abc
refuses 2 'model does not know "verfy"' "$diptych" model verfy
refuses 2 'takes --model and no other' "$diptych" model manifest --digest "$digest"
refuses 1 'nowhere' "${verify[@]}" nowhere

# The manifest is what sha256sum writes and reads.
"$diptych" model manifest --model good >manifest
accepts eval '(cd good && sha256sum --quiet -c ../manifest)'
(cd good && find . -name '*.json' -o -name '*.safetensors' | xargs sha256sum) >theirs
accepts "${verify[@]}" good --manifest theirs
accepts "${verify[@]}" good --manifest manifest --digest "$digest"
same "--json's files" "$(wc -l <manifest)" "$("${verify[@]}" good --json | grep -o '"sha256"' | wc -l)"

# bad NAME COMMAND...: a fresh copy called bad, changed
bad() { rm -rf bad; cp -r good bad; "$@" || complain "$*"; }
weights=$(cd good && ls *.safetensors | head -n 1)

# One bit far from everything that the digest samples: only a manifest can tell.
bits() { printf '\x01' | dd of="bad/$weights" bs=1 seek=$(($(stat -c %s "bad/$weights") / 2 + 3)) conv=notrunc status=none; }
bad bits
refuses 1 "$weights is not the file of the manifest: its SHA-256 is" "${verify[@]}" bad --manifest manifest
bad truncate -s -1 "bad/$weights"
refuses 1 "$weights" "${verify[@]}" bad
bad rm bad/tokenizer.json
refuses 1 'tokenizer.json' "${verify[@]}" bad
refuses 1 'tokenizer.json is missing' "${verify[@]}" bad --manifest manifest
bad cp "bad/$weights" bad/more.safetensors
refuses 1 'more.safetensors is there and not in the manifest' "${verify[@]}" bad --manifest manifest
bad ln -s gone bad/half.safetensors
refuses 1 'half.safetensors: No such file' "${verify[@]}" bad
bad eval 'echo "{" >bad/config.json'
refuses 1 'config.json' "${verify[@]}" bad
echo "nonsense" >nonsense
refuses 1 'nonsense: line 1 is not a SHA-256' "${verify[@]}" good --manifest nonsense
: >empty
refuses 1 'lists no file' "${verify[@]}" good --manifest empty
refuses 1 'gone' "${verify[@]}" good --manifest gone

finish
