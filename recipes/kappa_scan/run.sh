#!/usr/bin/env bash
# Compare training at several batch sizes with the full rule, with parts of it, and without scaling.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: bash recipes/kappa_scan/run.sh [options] [-- key=value ...]

  --config FILE   config of the runs (default: the quickstart's; its corpus is then rendered)
  --hours H       hours of audio of every run after the seed model (default 4)
  --kappas LIST   batch sizes relative to the config's reference batch (default 0.5,2,4,8)
  --seeds N       number of runs at kappa 1, for the spread (default 3)
  --repeats N     number of runs at each other kappa and mode (default 1)
  --workers N     number of runs in parallel (default: one per core, or one per GPU)
  --exp DIR       output folder; relative paths in the config start from it
                  (default: exp/kappa_scan in the repository root)
  -- key=value    overrides the config

Trains a supervised seed model for pseudo_labels.start_hours. From it, trains at a constant learning rate with
pseudo-labels and without, at each kappa and in four modes: the full rule, the full rule with the measured noise share,
only the optimizer's rule, nothing scaled. Also trains one progressive run each. Prints the differences between the
teacher's WER and that at kappa 1, with the spread over seeds, and plots ema.png and supervised.png. Rerun the same
command to resume; completed runs are not repeated.
HELP
}

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
# shellcheck source=recipes/common.sh
source "$root/recipes/common.sh"
quickstart=$root/recipes/quickstart/conf/quickstart.yaml
config=$quickstart exp=$root/exp/kappa_scan overrides=() options=()
while (($# > 0)); do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --) shift; overrides=("$@"); break ;;
        --config | --exp)
            (($# > 1)) || fail "$1 needs a value (see --help)"
            printf -v "${1#--}" '%s' "$2"
            shift 2 ;;
        --hours | --kappas | --seeds | --repeats | --workers)
            (($# > 1)) || fail "$1 needs a value (see --help)"
            options+=("$1=$2")
            shift 2 ;;
        *) fail "unknown option '$1' (see --help; key=value goes after --)" ;;
    esac
done
[[ -f $config ]] || fail "--config $config: no such file"
config=$(realpath -- "$config")

# shellcheck source=recipes/environment.sh
source "$root/recipes/environment.sh"
mkdir -p -- "$exp"
cd -- "$exp"
if [[ $config == "$quickstart" ]]; then
    asr-emapl prepare rendered --out data --seed 4
    [[ -f data/characters.json ]] || asr-emapl tokenizer --out data/characters.json
fi
export PYTHONPATH=$root/recipes${PYTHONPATH:+:$PYTHONPATH}
start "$PYTHON" "$here/scan.py" --config "$config" ${options[@]+"${options[@]}"} -- ${overrides[@]+"${overrides[@]}"}
wait_for "$!"
exit "${status_of[$!]}"
