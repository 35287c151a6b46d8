#!/usr/bin/env bash
# The noisy parabola: what the EMA Scaling Rule does to the average of one parameter, in under a minute.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: bash recipes/parabola/run.sh [options]

  --seed N   of the noise (default 0)
  --sigma S  noise of a sample's gradient with Adam and Adagrad, where the gradient is 1 at most (default 10)
  --quick    sizes too small to say anything, in seconds: to see that all runs
  --exp DIR  where tables and pictures go (default: exp/parabola in the repository root)

SGD, Adam and Adagrad on noisy quadratics and the moving averages of their iterates, at 1 to 4096 samples a step,
with the toolkit's own scaling rules and without. Prints the tables as Markdown; DIR gets results.json and, as PNG
and SVG, trajectories, momentum, variance and adaptive.
HELP
}

fail() { printf 'error: %s\n' "$1" >&2; exit 2; }

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
seed=0 sigma=10 exp=$root/exp/parabola quick=()
while (($# > 0)); do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --quick) quick=(--quick); shift ;;
        --seed | --sigma | --exp)
            (($# > 1)) || fail "$1 wants a value (see --help)"
            printf -v "${1#--}" '%s' "$2"
            shift 2 ;;
        *) fail "unknown option '$1' (see --help)" ;;
    esac
done
[[ $seed =~ ^[0-9]{1,9}$ ]] || fail "--seed '$seed': a number is wanted"
[[ $sigma =~ ^[1-9][0-9]{0,5}$ ]] || fail "--sigma '$sigma': a whole number from 1 on is wanted"
mkdir -p -- "$exp" 2>/dev/null && [[ -w $exp ]] || fail "--exp '$exp': is no folder that can be written to"

# shellcheck source=recipes/environment.sh
source "$root/recipes/environment.sh"
# Two processes share the work; threads of theirs would only contend.
export OMP_NUM_THREADS=1
"$PYTHON" "$here/parabola.py" --exp="$exp" --seed "$seed" --sigma "$sigma" ${quick[@]+"${quick[@]}"}
printf 'results.json and pictures are in %s\n' "$exp"
