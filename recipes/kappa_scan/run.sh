#!/usr/bin/env bash
# Whether training is the same at every batch: with the rule, with parts of it, without.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: bash recipes/kappa_scan/run.sh [options] [-- key=value ...]

  --config FILE   the run that is scanned (default: the quickstart's; its corpus is then rendered)
  --hours H       of audio for every run after the seed that all start from (default 4)
  --kappas LIST   batches over the config's reference batch (default 0.5,2,4,8)
  --seeds N       runs at kappa 1, for the spread (default 3)
  --repeats N     runs of every other kind (default 1)
  --workers N     runs at a time (default: one a core, or one a GPU)
  --exp DIR       where everything goes, and where paths in the config begin
                  (default: exp/kappa_scan in the repository root)
  -- key=value    over the config

Trains a seed on transcripts up to pseudo_labels.start_hours; from it, at constant learning rate, runs with
pseudo-labels and supervised runs at every kappa: with the full rule, with the rule and the measured share of noise,
with the optimizer's rule alone, and with nothing scaled; and a progressive run. Prints by how far the teacher's
WER leaves that of kappa 1, beside the spread of seeds, and draws ema.png and supervised.png. What is done already
is not done again.
HELP
}

fail() { printf 'error: %s\n' "$1" >&2; exit 2; }

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
quickstart=$root/recipes/quickstart/conf/quickstart.yaml
config=$quickstart exp=$root/exp/kappa_scan overrides=() options=()
while (($# > 0)); do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --) shift; overrides=("$@"); break ;;
        --config | --exp)
            (($# > 1)) || fail "$1 wants a value (see --help)"
            printf -v "${1#--}" '%s' "$2"
            shift 2 ;;
        --hours | --kappas | --seeds | --repeats | --workers)
            (($# > 1)) || fail "$1 wants a value (see --help)"
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
"$PYTHON" "$here/scan.py" --config "$config" ${options[@]+"${options[@]}"} -- ${overrides[@]+"${overrides[@]}"}
