#!/usr/bin/env bash
# tests/e2e/options.sh - every option does what its help says, by flag and by environment; the printed table is the documented one.
. "$(dirname "$0")/common.bash"
cd "$work" || exit 1

checks=$((checks + 1))
"$diptych" options --markdown | diff - "$root/docs/options.md" ||
  complain "docs/options.md is not what 'diptych options --markdown' prints"

# Help and version everywhere.
accepts "$diptych"
accepts "$diptych" --help
for command in generate tokenize inspect model bench doctor up coordinator worker status drain undrain plan sim options version help; do
  accepts "$diptych" $command --help
  grep -q "usage: diptych" stdout || complain "$command --help prints no usage"
  accepts "$diptych" help $command
done
accepts "$diptych" --version
grep -qE '^diptych [0-9]+\.[0-9]+\.[0-9]+$' stdout || complain "--version: $(cat stdout)"

# Ways to write an option, and who wins.
one=$(sha --seed 5 --steps 3 "a dog")
same "--name=value" "$one" "$(sha --seed=5 --steps=3 "a dog")"
same "-xVALUE" "$one" "$(sha -s5 --steps 3 "a dog")"
same "options after the prompt" "$one" "$(sha "a dog" -s 5 --steps 3)"
same "after --" "$(sha -s 5 -- "-dash")" "$(sha -s 5 -- -dash)"
same "environment" "$one" "$(DIPTYCH_SEED=5 DIPTYCH_STEPS=3 sha "a dog")"
same "flag over environment" "$one" "$(DIPTYCH_SEED=9 DIPTYCH_STEPS=7 sha --seed 5 --steps 3 "a dog")"
same "the last flag" "$one" "$(sha --seed 9 --seed 5 --steps 3 "a dog")"
same "an empty variable" "$one" "$(DIPTYCH_STEPS= sha --seed 5 --steps 3 "a dog")"
same "a seed of 64 bits" 18446744073709551615 "$("$diptych" generate --model "$tiny" --json --seed 18446744073709551615 x | field seed)"

# What is written where.
accepts "$diptych" generate --model "$tiny" x
[ -f out.png ] || complain "no out.png by default"
accepts env DIPTYCH_OUTPUT=by-env.png "$diptych" generate --model "$tiny" x
[ -f by-env.png ] || complain "DIPTYCH_OUTPUT"
mkdir no.dots
accepts "$diptych" generate --model "$tiny" -n 2 -o no.dots/x x
[ -f no.dots/x-0 ] && [ -f no.dots/x-1 ] || complain "-n 2 -o no.dots/x: $(ls no.dots)"
accepts "$diptych" generate --model "$tiny" -n 3 --steps 4 --previews p --preview-every 2 x
same "previews every 2 of 4 steps" "preview-0-2.png preview-1-2.png preview-2-2.png" "$(ls p | tr '\n' ' ' | sed 's/ $//')"
accepts "$diptych" generate --model "$tiny" --steps 3 --previews q --preview-kind decoded x
same "previews of 3 steps" "preview-0-1.png preview-0-2.png" "$(ls q | tr '\n' ' ' | sed 's/ $//')"

# Metadata is there unless it is not wanted, and holds nothing that varies.
"$diptych" generate --model "$tiny" --seed 3 -o meta.png "ein Käse" >/dev/null
"$diptych" generate --model "$tiny" --seed 3 --no-metadata -o bare.png "ein Käse" >/dev/null
checks=$((checks + 1))
grep -qa 'ein Käse' meta.png || complain "the prompt is not in the file"
grep -qa 'guidance' meta.png || complain "the parameters are not in the file"
! grep -qaE 'ein Käse|guidance|Software' bare.png || complain "--no-metadata leaves metadata"

# Progress goes to standard error or nowhere.
"$diptych" generate --model "$tiny" x >stdout 2>stderr
[ ! -s stderr ] || complain "progress without a terminal: $(cat stderr)"
"$diptych" generate --model "$tiny" --progress always --json x >stdout 2>stderr
grep -q 'diffusion steps' stderr || complain "--progress always shows nothing"
[ "$(wc -l <stdout)" -eq 1 ] || complain "--json prints more than one line"
"$diptych" generate --model "$tiny" --show x >stdout 2>stderr || complain "--show without a terminal fails"
grep -q 'not a terminal' stderr || complain "--show without a terminal says nothing: $(cat stderr)"

# One JSON object with what scripts rely on.
for name in seed image_sha256 width height tokens timings_ms queue prefill decode hinge diffusion vae encode total path fingerprint; do
  checks=$((checks + 1))
  [ -n "$("$diptych" generate --model "$tiny" --json x | field $name)" ] || complain "--json lacks $name"
done
accepts "$diptych" generate --model "$tiny" --json -o 'quote"and\back.png' x
grep -q 'quote\\"and\\\\back.png' stdout || complain "--json does not escape: $(cat stdout)"

# The other commands.
same "tokenize" 1 "$("$diptych" tokenize --model "$tiny" "a b c" | wc -l)"
accepts "$diptych" inspect --model "$tiny"
accepts "$diptych" inspect --model "$tiny" --json
echo '{"small": {"count": 1, "memory_gb": 8, "bandwidth_tb_s": 0.02, "tflop_s": 0.2}, "large": {"count": 4, "memory_gb": 80, "bandwidth_tb_s": 3, "tflop_s": 700}}' >inventory
accepts "$diptych" plan --model "$tiny" --inventory inventory
grep -q '^predicted, not measured' stdout || complain "plan does not say what it is: $(head -n 1 stdout)"
accepts "$diptych" plan --model "$tiny" --inventory inventory --ar-tp 2 --json
same "plan places everybody" 5 "$(grep -oE '"(ar_groups|diffusion)": [0-9]+' stdout | tail -n +3 | awk '{ n += ($1 ~ /ar/ ? 2 : 1) * $2 } END { print n }')"
accepts "$diptych" doctor --model "$tiny"
grep -q '^verdict: this machine is ready' stdout || complain "doctor: $(cat stdout)"
"$diptych" doctor --model absent >stdout 2>stderr && complain "doctor is content without a model"
grep -q 'fix:' stdout || complain "doctor gives no fix"
finish
