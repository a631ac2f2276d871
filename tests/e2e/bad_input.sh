#!/usr/bin/env bash
# tests/e2e/bad_input.sh - every wrong request ends in one sentence that names what is wrong, and in the right status.
. "$(dirname "$0")/common.bash"
cd "$work" || exit 1
generate=("$diptych" generate --model "$tiny")

# The command line.
refuses 2 'no command "generat"; did you mean generate' "$diptych" generat
refuses 2 'no option --step; did you mean --steps' "${generate[@]}" --step 4 x
refuses 2 'no option --frobnicate$' "${generate[@]}" --frobnicate x
refuses 2 'no option -z' "${generate[@]}" -z x
refuses 2 'inspect does not take --seed' "$diptych" inspect --seed 1
refuses 2 '--steps needs a value' "${generate[@]}" x --steps
refuses 2 '--json takes no value' "${generate[@]}" --json=yes x
refuses 2 'needs a PROMPT' "${generate[@]}"
refuses 2 'one PROMPT.*"circle".*quotes' "${generate[@]}" a circle
refuses 2 'tokenize needs a TEXT' "$diptych" tokenize --model "$tiny"
refuses 2 'bench.*did you mean decode' "$diptych" bench decod
refuses 2 'plan needs --inventory' "$diptych" plan --model "$tiny"
echo '{"a": {"count": 1, "memory_gb": 1}}' >"$work/inventory"
refuses 2 '"a" needs memory_gb, bandwidth_tb_s and tflop_s' "$diptych" plan --model "$tiny" --inventory "$work/inventory"
echo '{"a": {"count": 8, "memory_gb": 0.001, "bandwidth_tb_s": 4, "tflop_s": 800}}' >"$work/inventory"
refuses 2 'can hold both panels' "$diptych" plan --model "$tiny" --inventory "$work/inventory"
refuses 2 'ranks|cut|degree' "$diptych" plan --model "$tiny" --inventory "$work/inventory" --ar-tp 3
refuses 3 'cannot reach a coordinator at localhost:1' "${generate[@]}" --server localhost:1 x
refuses 2 'generate does not take --etcd' "${generate[@]}" --etcd http://localhost:1 x
refuses 2 '--trace looks into the engine' "${generate[@]}" --server localhost:1 --trace "$work/t" x
refuses 2 '--tls-key needs --tls-ca' "${generate[@]}" --server localhost:1 --tls-key k x
printf 'a-token\n' >"$work/secret"
: >"$work/nothing"
refuses 2 '--token and --token-file exclude' "${generate[@]}" --server localhost:1 --token t --token-file "$work/secret" x
refuses 2 '--token-file: the first line of .*nothing is empty' "${generate[@]}" --server localhost:1 --token-file "$work/nothing" x
refuses 1 'gone' "$diptych" worker --model "$tiny" --etcd-password-file "$work/gone"
refuses 2 'drain needs a MEMBER' "$diptych" drain
refuses 3 'cannot reach a coordinator' "$diptych" status --server localhost:1
refuses 2 '--tls-cert needs --tls-key' "$diptych" coordinator --model "$tiny" --tls-cert c
refuses 2 'is no HOST:PORT' "$diptych" coordinator --model "$tiny" --http nowhere
refuses 2 'etcd: endpoint "ftp://here" is not like http' timeout 20 "$diptych" coordinator --model "$tiny" --listen 127.0.0.1:0 --etcd ftp://here
refuses 2 '--etcd-user needs --etcd' timeout 20 "$diptych" coordinator --model "$tiny" --listen 127.0.0.1:0 --etcd-user me
refuses 2 '--role is "x"' "$diptych" worker --role x

# Values out of range name the option and the range.
refuses 2 '--steps is "0"; it must be a whole number from 1 to 1000' "${generate[@]}" --steps 0 x
refuses 2 '--steps is "1001"' "${generate[@]}" --steps 1001 x
refuses 2 '--steps is "4x"' "${generate[@]}" --steps 4x x
refuses 2 '--steps is "99999999999999999999"' "${generate[@]}" --steps 99999999999999999999 x
refuses 2 '--seed is "-1"; .*0 to 18446744073709551615' "${generate[@]}" --seed -1 x
refuses 2 '--seed is "18446744073709551616"' "${generate[@]}" --seed 18446744073709551616 x
refuses 2 '--guidance is "nan"' "${generate[@]}" --guidance nan x
refuses 2 '--guidance is "inf".*0 to 100' "${generate[@]}" --guidance inf x
refuses 2 '--temperature is "0"' "${generate[@]}" --temperature 0 x
refuses 2 '--top-p is "0"' "${generate[@]}" --top-p 0 x
refuses 2 '--top-k is "-1"' "${generate[@]}" --top-k -1 x
refuses 2 'top-k is 396; it must be 0 to 395' "${generate[@]}" --top-k 396 x
refuses 2 '(-n|--images) is "65"; .* 1 to 64' "${generate[@]}" -n 65 x
refuses 2 '--size is "16"; it must be WIDTHxHEIGHT' "${generate[@]}" --size 16 x
refuses 2 '--size is "16x-16"' "${generate[@]}" --size 16x-16 x
refuses 2 'width is 18; it must be a multiple of 4' "${generate[@]}" --size 18x16 x
refuses 2 'height is 8192; it must be a multiple of 4 from 4 to 2048' "${generate[@]}" --size 16x8192 x
refuses 2 '--sampler is "ddim"; it must be one of euler.dpm' "${generate[@]}" --sampler ddim x
refuses 2 '--threads is "0"' "${generate[@]}" --threads 0 x
refuses 2 '--backend is "tpu"; it must be one of auto.cpu.cuda' "${generate[@]}" --backend tpu x
refuses 2 '--preview-every needs --previews' "${generate[@]}" --preview-every 2 x
refuses 2 'DIPTYCH_STEPS is "many"' env DIPTYCH_STEPS=many "${generate[@]}" x

# The prompt.
refuses 2 'prompt is empty' "${generate[@]}" ""
refuses 2 'UTF-8' "${generate[@]}" $'caf\xe9'
refuses 2 'at most 16384' "${generate[@]}" "$(head -c 20000 /dev/zero | tr '\0' a)"
refuses 2 'tokens' "${generate[@]}" "$(head -c 16000 /dev/zero | tr '\0' '~')"

# Files that cannot be written are found out before anything is computed.
refuses 1 '--output: there is no folder absent' "${generate[@]}" -o absent/out.png x
refuses 2 'is a folder' "${generate[@]}" -o "$work" x
mkfifo pipe
refuses 2 'pipe is not a file but a device or a pipe' "${generate[@]}" -o pipe x
[ -p pipe ] && rm pipe || complain "the pipe was replaced"
refuses 2 'output: - would be a file' "${generate[@]}" -o - x
refuses 2 'only PNG is written, not .jpg' "${generate[@]}" -o out.jpg x
refuses 1 'absent' "${generate[@]}" --expect absent x
refuses 1 'no folder absent' "${generate[@]}" --trace absent/t x
refuses 1 'cannot make the folder absent/p' "${generate[@]}" --previews absent/p x
touch file
refuses 2 'file is not a folder' "${generate[@]}" --previews file x
refuses 1 'cannot write to standard output' bash -c "'$diptych' version >/dev/full"

# Models and injected files.
refuses 1 'absent' "$diptych" generate --model absent x
mkdir empty
refuses 1 'config.json' "$diptych" generate --model empty x
refuses 1 'config.json' "$diptych" inspect --model empty
refuses 1 'tokenizer.json' "$diptych" tokenize --model empty x
refuses 1 'absent' "${generate[@]}" --inject absent x
refuses 1 'config.json' "${generate[@]}" --inject "$tiny/config.json" x
refuses 1 'nothing is called' "${generate[@]}" --inject "$tiny/model.safetensors" x
cp -r "$tiny" cut && head -c 500000 "$tiny/model.safetensors" >cut/model.safetensors
refuses 1 'model.safetensors' "$diptych" generate --model cut x
cp "$tiny/model.safetensors" cut/ && echo '{' >cut/tokenizer.json
refuses 1 'tokenizer.json' "$diptych" generate --model cut x
cp "$tiny/tokenizer.json" cut/ && sed -i 's/"head_dim": [0-9]*/"head_dim": 0/' cut/config.json
for command in "generate x" "up --listen 127.0.0.1:0" "coordinator --listen 127.0.0.1:0" "worker --server 127.0.0.1:1" "bench ar" "plan --inventory $work/inventory"; do
  # shellcheck disable=SC2086  # words
  refuses 1 'cut/config.json: head_dim is 0' timeout 20 "$diptych" $command --model cut
done
[ -z "$(find . -name '*.png' -o -name '*.tmp')" ] || complain "a refused request left $(find . -name '*.png' -o -name '*.tmp')"
finish
