#!/usr/bin/env bash
# Compare training at several batch sizes with the full rule, with the optimizer's rule alone, and without scaling.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: bash recipes/kappa_scan/run.sh [options] [-- key=value ...]

  --config FILE   config of the runs (default: the quickstart's; its corpus is then rendered)
  --hours H       hours of audio of every run after the seed model (default 4)
  --kappas LIST   batch sizes relative to the config's reference batch (default 0.25,4,8)
  --seeds N       number of runs of each kind; each seed has its own seed model (default 4)
  --systems LIST  ema: pseudo-labels; supervised: the transcripts of the unlabelled audio (default: both)
  --workers N     number of runs in parallel (default: one per core, or one per GPU)
  --exp DIR       output folder, the base of relative paths in config and overrides
                  (default: exp/kappa_scan in the repository root)
  -- key=value    overrides the config

For each seed, trains a supervised seed model for pseudo_labels.start_hours. From the seed model, trains runs with a
constant learning rate: at each kappa with the full rule, with the optimizer's rule alone (rho unscaled) and without
scaling, and one progressive run. Prints the difference between the teacher's WER and that at kappa 1 of the same seed,
with intervals over seeds, and plots ema.png and supervised.png. Rerun the same command to resume; completed runs are
not repeated.
HELP
}

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
# shellcheck source=recipes/common.sh
source "$root/recipes/common.sh"
quickstart=$root/recipes/quickstart/conf/quickstart.yaml
config=$quickstart exp=$root/exp/kappa_scan overrides=() options=()
valued='config exp' passed='hours kappas seeds systems workers'
read_options "$@"
[[ -f $config ]] || fail "--config $config: no such file"
config=$(realpath -- "$config")

# shellcheck source=recipes/environment.sh
source "$root/recipes/environment.sh"
export PYTHONPATH=$root/recipes${PYTHONPATH:+:$PYTHONPATH}
command=("$PYTHON" "$here/scan.py" --config "$config" ${options[@]+"${options[@]}"})
"${command[@]}" --check -- ${overrides[@]+"${overrides[@]}"}
mkdir -p -- "$exp"
cd -- "$exp"
if [[ $config == "$quickstart" ]]; then
    # A batch at kappa 8 is 13 % of 12 minutes.
    run asr-emapl prepare rendered --out data --seed 4 --labelled-minutes 12
    [[ -f data/characters.json ]] || run asr-emapl tokenizer --out data/characters.json
fi
start "${command[@]}" -- ${overrides[@]+"${overrides[@]}"}
wait_for "$!"
exit "${status_of[$!]}"
