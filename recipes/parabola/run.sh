#!/usr/bin/env bash
# Test the EMA Scaling Rule on a noisy parabola with one parameter, in under a minute.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: bash recipes/parabola/run.sh [options]

  --seed N   seed of the noise (default 0)
  --sigma S  standard deviation of a sample's gradient in the Adam and Adagrad runs; its mean is at most 1 (default 10)
  --quick    run for a few seconds, too short for conclusions
  --exp DIR  output folder (default: exp/parabola in the repository root)

Runs SGD, Adam and Adagrad on noisy quadratics at 1 to 4096 samples per step, with and without the scaling rules and with
batches that adapt, and averages their iterates. Prints tables as Markdown, and writes results.json and the figures
trajectories, momentum, variance, adaptive and schedules as PNG and SVG files.
HELP
}

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
# shellcheck source=recipes/common.sh
source "$root/recipes/common.sh"
seed=0 sigma=10 exp=$root/exp/parabola quick='' overrides=()
valued='seed sigma exp' flags=quick
read_options "$@"
((${#overrides[@]} == 0)) || fail "unknown option '--' (see --help)"
[[ $seed =~ ^[0-9]{1,9}$ ]] || fail "--seed '$seed': not a whole number of at most 9 digits"
[[ $sigma =~ ^[1-9][0-9]{0,5}$ ]] || fail "--sigma '$sigma': not a whole number from 1 to 999999"
mkdir -p -- "$exp" 2>/dev/null && [[ -w $exp ]] || fail "--exp '$exp': not a writable folder"

# shellcheck source=recipes/environment.sh
source "$root/recipes/environment.sh"
# The work is done by two processes; more threads would only compete for cores.
export OMP_NUM_THREADS=1
run "$PYTHON" "$here/parabola.py" --exp="$exp" --seed "$seed" --sigma "$sigma" ${quick:+"$quick"}
printf 'results.json and the figures are in %s\n' "$exp"
