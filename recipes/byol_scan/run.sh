#!/usr/bin/env bash
# Train BYOL at several batch sizes with the full rule, with the optimizer's rule alone, and without scaling.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: bash recipes/byol_scan/run.sh [options] [-- key=value ...]

  --config FILE   config of the runs (default: recipes/byol_scan/conf/byol.yaml on the quickstart's unlabelled hour,
                  which is then rendered)
  --kappas LIST   batch sizes relative to the config's reference batch (default 0.25,4,16)
  --seeds N       number of runs of each kind (default 5)
  --workers N     number of runs in parallel (default: one per core, or one per GPU)
  --exp DIR       output folder, the base of relative paths in config and overrides
                  (default: exp/byol_scan in the repository root)
  -- key=value    overrides the config

At each kappa, trains with the full rule, with the optimizer's rule alone (rho unscaled) and without scaling, and one
progressive run. Each forward pass has the same number of crops at every kappa. Trains a linear probe of the speaker on
the teacher at eight points. Prints the difference between the curves and those at kappa 1 of the same seed, with
intervals over seeds. Rerun the same command to resume.
HELP
}

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
# shellcheck source=recipes/common.sh
source "$root/recipes/common.sh"
default=$here/conf/byol.yaml
config=$default exp=$root/exp/byol_scan overrides=() options=()
valued='config exp' passed='kappas seeds workers'
read_options "$@"
[[ -f $config ]] || fail "--config $config: no such file"
config=$(realpath -- "$config")

# shellcheck source=recipes/environment.sh
source "$root/recipes/environment.sh"
export PYTHONPATH=$root/recipes${PYTHONPATH:+:$PYTHONPATH}
command=("$PYTHON" "$here/byol_scan.py" --config "$config" ${options[@]+"${options[@]}"})
"${command[@]}" --check -- ${overrides[@]+"${overrides[@]}"}
mkdir -p -- "$exp"
cd -- "$exp"
if [[ $config == "$default" && "${overrides[*]-}" != *data.unlabelled=* ]]; then
    run asr-emapl prepare rendered --out data
fi
start "${command[@]}" -- ${overrides[@]+"${overrides[@]}"}
wait_for "$!"
exit "${status_of[$!]}"
