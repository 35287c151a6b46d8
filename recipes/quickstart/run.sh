#!/usr/bin/env bash
# Train on 4 minutes of transcribed and one hour of untranscribed speech with an EMA teacher.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: bash recipes/quickstart/run.sh [options] [-- key=value ...]

  --seed N      seed of weights, order and augmentation (default 0); the corpus stays the same
  --oracle      also train on the reference transcripts of the untranscribed audio, as an upper bound
  --model FILE  YAML file with a line "model: ..." for a model of your own; its code may be in the same folder
  --exp DIR     output folder (default: exp/quickstart in the repository root)
  -- key=value  overrides conf/quickstart.yaml; relative paths start from the output folder

Renders the corpus and trains a seed model on the transcribed part. Then trains two models from the seed model on the
same amount of audio, one supervised and one with pseudo-labels of the EMA teacher, scores them and prints the table.
Rerun the same command to resume; completed work is not repeated. Delete DIR to start over.
HELP
}

# stage NUMBER TITLE COMMAND...: print the title of a stage, and whether it is done according to the command.
stage() { printf '== %s of 4: %s%s\n' "$1" "$2" "$("${@:3}" && echo ": done")"; }

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
# shellcheck source=recipes/common.sh
source "$root/recipes/common.sh"
seed=0 exp=$root/exp/quickstart model='' oracle='' systems=(baseline ema) overrides=()
valued='seed exp model' flags=oracle
read_options "$@"
[[ -z $oracle ]] || systems+=(oracle)
[[ $seed =~ ^[0-9]+$ ]] || fail "--seed '$seed': not a whole number"

# use_model FILE: replace the model of the config; its code is imported from the folder of the file.
use_model() {
    local target
    { sed '/^model:/,/^batch:/ { /^batch:/! d }' "$config" && cat -- "$1"; } >quickstart.yaml
    config=$PWD/quickstart.yaml
    export PYTHONPATH=${1%/*}${PYTHONPATH:+:$PYTHONPATH}
    target=$(asr-emapl settings model.target --config "$config") || exit 2
    trust=(--trust "${target%%[.:]*}")
}

# shellcheck source=recipes/environment.sh
source "$root/recipes/environment.sh"
mkdir -p -- "$exp"
[[ -z $model || -f $model ]] || fail "--model $model: no such file"
[[ -z $model ]] || model=$(realpath -- "$model")
cd -- "$exp"
runs=runs/seed-$seed
mkdir -p -- "$runs"
config=$here/conf/quickstart.yaml
if [[ -n $model ]]; then use_model "$model"; fi
# The seed model ends where pseudo-labels start.
start_hours=$(pseudo_label_start "$config" ${overrides[@]+"${overrides[@]}"}) || exit 2
hours=$(asr-emapl settings hours --config "$config" ${overrides[@]+"${overrides[@]}"}) || exit 2

# With `root`, the paths in the config.yaml of a run are absolute, so that commands find them from any folder.
train() {
    start asr-emapl train --config "$config" root="$PWD" ${overrides[@]+"${overrides[@]}"} seed="$seed" \
        run_dir="$runs/$1" "${@:2}"
}
# Settings that determine what a system learns from.
learns_from() {
    if [[ $1 == seed || $1 == baseline ]]; then echo "pseudo_labels.strategy=none data.unlabelled=[]"; else echo "pseudo_labels.strategy=$1"; fi
}

parts=(data/{train-labelled,train-unlabelled,dev-clean,dev-other}.jsonl data/characters.json)
have_parts() { local part; for part in "${parts[@]}"; do [[ -s $part ]] || return 1; done; }
stage 1 "render the corpus to $exp/data" have_parts
# Settings were chosen on the corpora of seeds 0, 1 and 3, so results are reported on a different corpus.
run asr-emapl prepare rendered --out data --seed 4
[[ -s data/characters.json ]] || run asr-emapl tokenizer --out data/characters.json

stage 2 "train the supervised seed model, $start_hours h of audio" has_trained "$runs/seed" "$start_hours"
echo "the ETA is that of one stage; stage 3 trains ${#systems[@]} models at the same time, each to $hours h"
read -ra settings <<<"$(learns_from seed)"
train seed hours="$start_hours" "${settings[@]}"
wait_for "$!"
((status_of[$!] == 0)) || exit "${status_of[$!]}"

for system in "${systems[@]}"; do set_aside "$runs/$system" "$runs/seed"; done
have_trained() { local system; for system in "${systems[@]}"; do has_trained "$runs/$system" "$hours" || return 1; done; }
stage 3 "train from the seed model to $hours h, at the same time: ${systems[*]}" have_trained
echo "logs: $exp/$runs/<name>.log; shown: ema"
processes=()
for system in "${systems[@]}"; do
    : >"$runs/$system.log" # exists before tail opens it
    read -ra settings <<<"$(learns_from "$system")"
    train "$system" init.checkpoint="$runs/seed" "${settings[@]}" >>"$runs/$system.log" 2>&1
    processes+=($!)
done
tail -n +1 -f --pid="${processes[1]}" "$runs/ema.log" &
wait_for "${processes[@]}"
for i in "${!processes[@]}"; do
    ((status_of[${processes[i]}] == 0)) || fail "the ${systems[i]} run failed: $(tail -n 1 "$runs/${systems[i]}.log")"
done

stage 4 "decode and score dev-clean and dev-other" false
for system in seed "${systems[@]}"; do
    for part in dev-clean dev-other; do evaluate "$runs/$system" "data/$part.jsonl" "$runs/$system/$part"; done
done
curves=()
for system in "${systems[@]}"; do curves+=("$system=$runs/$system"); done
run asr-emapl plot "${curves[@]}" --out "$runs/curves.png"
run "$PYTHON" "$here/table.py" "$runs"
example=$(find data -path "*dev-clean*" -name "*.flac" | sort | sed -n 1p)
suggest ${model:+"export PYTHONPATH=$(printf %q "${model%/*}")"} \
    "asr-emapl report ${curves[*]} --out report.html --manifest data/dev-other.jsonl --decode${trust[*]:+ ${trust[*]}}" \
    "asr-emapl transcribe $example --checkpoint $runs/ema${trust[*]:+ ${trust[*]}}" \
    "asr-emapl scale --config $runs/ema/config.yaml --batch-seconds 96"
