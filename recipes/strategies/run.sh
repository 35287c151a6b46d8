#!/usr/bin/env bash
# Compare the strategies of pseudo-labelling on the quickstart's corpus, with several amounts of labelled audio.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: bash recipes/strategies/run.sh [options] [-- key=value ...]

  --minutes LIST   minutes of labelled audio, up to 12 (default 1,4,12)
  --seeds N        number of seeds; each has its own seed model (default 3)
  --systems LIST   systems of recipes/strategies/systems.yaml (default: all)
  --hours H        hours of audio of every run after the seed model (default 4)
  --external FILE  labels of another recogniser for data/train-unlabelled.jsonl, for system "external":
                   JSONL with id and text, or another file that `asr-emapl score` reads
  --workers N      number of runs in parallel (default: one per core, or one per GPU)
  --table          do not train; print the tables and plot the completed runs
  --exp DIR        output folder (default: exp/strategies in the repository root)
  -- key=value     overrides the quickstart's config; relative paths start from the output folder

Renders the quickstart's corpus with 12 minutes of labelled audio. For each amount and seed, trains a supervised seed
model, and from it all systems on the same amount of audio. Prints one table per amount of labelled audio: WER of the
teacher, significance of the difference to `ema`, share of the gap between baseline and oracle that is recovered, WER of
the pseudo-labels, and processor time.
Plots strategies.png. Rerun the same command to resume; completed runs are not repeated.
HELP
}

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
# shellcheck source=recipes/common.sh
source "$root/recipes/common.sh"
exp=$root/exp/strategies overrides=() options=() minutes=1,4,12
valued='exp minutes' passed='hours seeds systems workers' passed_files=external passed_flags=table
read_options "$@"

# shellcheck source=recipes/environment.sh
source "$root/recipes/environment.sh"
export PYTHONPATH=$root/recipes${PYTHONPATH:+:$PYTHONPATH}
config=$root/recipes/quickstart/conf/quickstart.yaml
command=("$PYTHON" "$here/strategies.py" --config "$config" --amounts "$minutes" --unit min ${options[@]+"${options[@]}"})
"${command[@]}" --check -- ${overrides[@]+"${overrides[@]}"}
mkdir -p -- "$exp"
cd -- "$exp"
run asr-emapl prepare rendered --out data --seed 4 --labelled-minutes 12
[[ -f data/characters.json ]] || run asr-emapl tokenizer --out data/characters.json
for amount in ${minutes//,/ }; do
    labelled=data/labelled-$amount.jsonl
    if [[ $amount == 12 ]]; then
        ln -sfn train-labelled.jsonl "$labelled"
    elif [[ ! -f $labelled ]]; then
        run asr-emapl split data/train-labelled.jsonl --hours "$("$PYTHON" -c "print($amount / 60)")" --out "$labelled" --rest "data/rest-$amount.jsonl"
    fi
done
start "${command[@]}" -- ${overrides[@]+"${overrides[@]}"}
wait_for "$!"
exit "${status_of[$!]}"
